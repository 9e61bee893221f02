-- A shop with four stores that share one database: what an agent of one store may see is the point of the tour.
CREATE SCHEMA shop;
CREATE SCHEMA hr;

CREATE TABLE shop.stores (id int PRIMARY KEY, name text NOT NULL, city text NOT NULL);
CREATE TABLE shop.categories (id int PRIMARY KEY, parent_id int REFERENCES shop.categories, name text NOT NULL);
CREATE TABLE shop.products (
    id int PRIMARY KEY, category_id int NOT NULL REFERENCES shop.categories, name text NOT NULL,
    price numeric(10,2) NOT NULL, unit_cost numeric(10,2) NOT NULL, stock int NOT NULL, attributes jsonb NOT NULL);
CREATE TABLE shop.customers (
    id int PRIMARY KEY, store_id int NOT NULL REFERENCES shop.stores, name text NOT NULL, email text NOT NULL,
    phone text, birth_date date, city text NOT NULL, note text, joined_on date NOT NULL);
CREATE TABLE shop.orders (
    id int PRIMARY KEY, store_id int NOT NULL REFERENCES shop.stores, customer_id int NOT NULL, status text NOT NULL,
    placed_at timestamptz NOT NULL, total numeric(12,2));
CREATE TABLE shop.order_items (
    order_id int NOT NULL, line int NOT NULL, product_id int NOT NULL, quantity int NOT NULL,
    unit_price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line));
CREATE TABLE shop.payments (
    id int PRIMARY KEY, order_id int NOT NULL, method text NOT NULL, card_number text, amount numeric(12,2) NOT NULL);
CREATE TABLE shop.reviews (
    id int PRIMARY KEY, product_id int NOT NULL, stars int NOT NULL, body text NOT NULL, written_on date NOT NULL);
CREATE TABLE shop.tickets (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, store_id int NOT NULL, customer_id int NOT NULL,
    subject text NOT NULL, status text NOT NULL DEFAULT 'open', opened_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE shop.api_keys (id int PRIMARY KEY, owner text NOT NULL, secret text NOT NULL);
CREATE TABLE hr.employees (id int PRIMARY KEY, name text NOT NULL, salary numeric(10,2) NOT NULL);
