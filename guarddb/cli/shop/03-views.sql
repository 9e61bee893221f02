CREATE VIEW shop.customer_overview AS
SELECT c.id, c.name, c.email AS contact, c.city, count(o.id) AS orders, sum(o.total) AS spent
FROM shop.customers c LEFT JOIN shop.orders o ON o.customer_id = c.id
GROUP BY c.id, c.name, c.email, c.city;
CREATE VIEW shop.address_book AS SELECT id, name, email AS contact, city FROM shop.customers;
CREATE VIEW shop.best_sellers AS
SELECT p.id, p.name, sum(i.quantity) AS sold
FROM shop.order_items i JOIN shop.products p ON p.id = i.product_id GROUP BY p.id, p.name;

-- Written to look like a column: `c.contact_line` calls it.
CREATE FUNCTION shop.contact_line(shop.customers) RETURNS text STABLE LANGUAGE sql AS $$ SELECT $1.name || ' <' || $1.email || '>' $$;
CREATE FUNCTION shop.with_vat(numeric) RETURNS numeric IMMUTABLE LANGUAGE sql AS $$ SELECT round($1 * 1.25, 2) $$;

CREATE INDEX ON shop.orders (customer_id);
CREATE INDEX ON shop.orders (store_id, placed_at);
CREATE INDEX ON shop.order_items (product_id);
CREATE INDEX ON shop.customers (store_id);

-- The agent's role: it owns nothing, and is granted no more than the widest of the tour's profiles.
CREATE ROLE shop_agent LOGIN;
GRANT USAGE ON SCHEMA shop, hr TO shop_agent;
GRANT SELECT ON ALL TABLES IN SCHEMA shop, hr TO shop_agent;
GRANT INSERT, UPDATE, DELETE ON shop.orders, shop.tickets, shop.customers TO shop_agent;
ALTER ROLE shop_agent SET search_path = shop, public;
