-- The tables that the examples ask: a shop of two tenants. For an empty database, as its owner.
CREATE TABLE customers (id int PRIMARY KEY, tenant_id int NOT NULL, email text, phone text);
CREATE TABLE orders (id int PRIMARY KEY, tenant_id int NOT NULL, total numeric);
CREATE TABLE order_items (order_id int, product_id int);
CREATE TABLE products (id int PRIMARY KEY, name text);
INSERT INTO customers SELECT n, n % 2, 'c' || n || '@example.org', '555-' || n FROM generate_series(1, 8) n;
INSERT INTO orders SELECT n, n % 2, n FROM generate_series(1, 20) n;
INSERT INTO products SELECT n, 'product ' || n FROM generate_series(1, 900) n;
