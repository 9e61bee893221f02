-- Every statement fills one table and begins with its name in a comment, which is what the progress bar shows.
-- Arithmetic on the row number instead of random(): the same shop every time, so that the tour can be tested.
--- stores
INSERT INTO shop.stores VALUES (1,'North','Oslo'), (2,'South','Lisbon'), (3,'East','Riga'), (4,'West','Dublin');
--- categories
INSERT INTO shop.categories VALUES
 (1,NULL,'Everything'), (2,1,'Kitchen'), (3,1,'Garden'), (4,1,'Office'), (5,2,'Knives'), (6,2,'Pans'),
 (7,3,'Seeds'), (8,3,'Tools'), (9,4,'Paper'), (10,4,'Chairs'), (11,8,'Spades'), (12,8,'Shears');
--- products
INSERT INTO shop.products
SELECT n, 5 + n % 8, (ARRAY['Sturdy','Plain','Blue','Folding','Large','Old'])[1 + n % 6] || ' ' ||
       (ARRAY['knife','pan','seed mix','rake','notebook','chair','spade','shears'])[1 + n % 8] || ' ' || n,
       5 + (n * 37 % 9000) / 100.0, 2 + (n * 17 % 4000) / 100.0, n * 13 % 400,
       jsonb_build_object('colour', (ARRAY['red','green','grey'])[1 + n % 3], 'weight', n * 7 % 900)
FROM generate_series(1, 600) n;
--- customers
INSERT INTO shop.customers
SELECT n, 1 + n % 4, first || ' ' || last, lower(first) || '.' || lower(last) || n || '@example.org',
       '+47 555 ' || lpad((n * 7919 % 100000)::text, 5, '0'), date '1950-01-01' + (n * 31 % 18000),
       (ARRAY['Oslo','Lisbon','Riga','Dublin'])[1 + n % 4], NULL, date '2021-01-01' + (n % 1500)
FROM generate_series(1, 20000) n,
     LATERAL (SELECT (ARRAY['Ada','Bram','Chidi','Dana','Emre','Freya','Goran','Hana'])[1 + n % 8] AS first,
                     (ARRAY['Okafor','Silva','Berg','Murphy','Ozols','Haddad','Novak'])[1 + n % 7] AS last) p;
--- orders
INSERT INTO shop.orders
SELECT n, 1 + n % 4, coalesce(nullif(n / 4 * 28 % 20000 + n % 4, 0), 20000), (ARRAY['paid','shipped','open','returned'])[1 + (n / 4) % 4],
       timestamptz '2025-01-01 08:00+00' + n * interval '7 minutes', NULL
FROM generate_series(1, 60000) n;
--- order items
INSERT INTO shop.order_items
SELECT o, l, 1 + (o * 11 + l * 101) % 600, 1 + (o + l) % 5, 5 + ((o * 3 + l) % 9000) / 100.0
FROM generate_series(1, 60000) o, generate_series(1, 2 + o % 2) l;
--- order totals
UPDATE shop.orders o SET total = s.total
FROM (SELECT order_id, sum(quantity * unit_price) AS total FROM shop.order_items GROUP BY order_id) s
WHERE s.order_id = o.id;
--- payments
INSERT INTO shop.payments
SELECT n, n, (ARRAY['card','transfer','cash'])[1 + n % 3],
       CASE WHEN n % 3 = 0 THEN '4929 ' || lpad((n * 7919::bigint % 1000000000000)::text, 12, '0') END,
       20 + (n * 13 % 20000) / 100.0
FROM generate_series(1, 60000) n;
--- reviews
INSERT INTO shop.reviews
SELECT n, 1 + n % 600, 1 + n % 5, (ARRAY['Does what it says','Broke in a week','Lovely','Too heavy'])[1 + n % 4],
       date '2025-01-01' + n % 400
FROM generate_series(1, 12000) n;
--- tickets
INSERT INTO shop.tickets (store_id, customer_id, subject, status)
SELECT 1 + n % 4, n, 'Where is order ' || n || '?', (ARRAY['open','answered'])[1 + (n / 4) % 2]
FROM generate_series(1, 800) n;
--- secrets
INSERT INTO shop.api_keys SELECT n, 'service ' || n, md5(n::text) FROM generate_series(1, 5) n;
INSERT INTO hr.employees SELECT n, 'Employee ' || n, 30000 + n * 100 FROM generate_series(1, 200) n;
