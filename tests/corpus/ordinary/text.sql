-- Text, regular expressions, full text, dates, numbers, casts.

-- name: like and ilike
SELECT id, name FROM products WHERE name LIKE 'Ham%' OR name ILIKE '%POT%' ORDER BY id

-- name: similar to
SELECT name FROM products WHERE name SIMILAR TO '(Saw|Drill) [0-9]+' ORDER BY id

-- name: escaped like
SELECT count(*) FROM products WHERE sku LIKE 'SKU-00\_1' ESCAPE '\' OR sku NOT LIKE '%9'

-- name: regex match
SELECT id, (regexp_match(sku, '(\d+)$'))[1]::int AS number FROM products WHERE sku ~ '^SKU-00[12]' ORDER BY id

-- name: regex replace and split
SELECT regexp_replace(name, '\s+', '_', 'g'), regexp_split_to_array(name, ' '), regexp_count(name, 'a') FROM products ORDER BY id LIMIT 10

-- name: string functions
SELECT upper(name), lower(name), initcap(name), length(name), left(name, 3), right(name, 3), reverse(name), repeat('-', 3), lpad(sku, 10, '0'), split_part(sku, '-', 2) FROM products ORDER BY id LIMIT 5

-- name: trim, position, substring, overlay
SELECT trim(BOTH 'x' FROM 'xxaxx'), position('b' IN 'abc'), substring(name FROM 2 FOR 3), overlay(name PLACING 'ZZ' FROM 1 FOR 2), strpos(name, 'a'), translate(name, 'aeiou', '12345') FROM products ORDER BY id LIMIT 5

-- name: concatenation
SELECT name || ' (' || country || ')', concat(name, ' ', NULL, city), concat_ws(', ', name, city, NULL, country), format('%s from %I', name, city) FROM customers ORDER BY id LIMIT 10

-- name: string_agg
SELECT country, string_agg(name, ', ' ORDER BY name) FROM customers WHERE id < 30 GROUP BY country ORDER BY country

-- name: quoting and hashing
SELECT md5(name), encode(sha256(convert_to(name, 'UTF8')), 'hex'), quote_literal(name) FROM categories ORDER BY id

-- name: unicode
SELECT city, char_length(city), octet_length(city), normalize(city, NFC) = city AS nfc FROM customers WHERE city = 'Málaga' ORDER BY id LIMIT 3

-- name: collate
SELECT name FROM categories ORDER BY name COLLATE "C" DESC

-- name: dollar quotes and escapes
SELECT $$it's fine$$ AS a, E'tab\there' AS b, U&'\0061' AS c, 'two'
  ' parts' AS d

-- name: full text match
SELECT id, name FROM products WHERE search @@ to_tsquery('english', 'sturdy & tool') ORDER BY id

-- name: full text rank
SELECT id, round(ts_rank(search, q)::numeric, 4) AS rank FROM products, websearch_to_tsquery('english', 'kitchen seeds') AS q WHERE search @@ q ORDER BY rank DESC, id

-- name: full text headline
SELECT ts_headline('english', description, plainto_tsquery('english', 'wood')) FROM products WHERE name LIKE 'Saw%' ORDER BY id LIMIT 2

-- name: date arithmetic
SELECT id, placed_at + interval '2 weeks' AS due, shipped_on - placed_at::date AS days, placed_at - interval '1 month' AS before FROM orders ORDER BY id LIMIT 15

-- name: extract and date_part
SELECT extract(isodow FROM placed_at) AS dow, extract(week FROM placed_at) AS week, date_part('quarter', placed_at) AS quarter, count(*) FROM orders GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- name: age between two dates
SELECT id, age('2024-06-01'::date, birthday) AS age, justify_days(interval '65 days') FROM customers WHERE birthday IS NOT NULL ORDER BY id LIMIT 10

-- name: to_char and to_date
SELECT to_char(placed_at, 'YYYY-MM-DD HH24:MI') AS at, to_char(total, 'FM999G990D00') AS total, to_date('2024-02-29', 'YYYY-MM-DD') AS leap, to_number('1,234', '9,999') FROM orders ORDER BY id LIMIT 10

-- name: time zones
SELECT placed_at AT TIME ZONE 'Europe/Berlin' AS berlin, timezone('UTC', placed_at) AS utc FROM orders ORDER BY id LIMIT 5

-- name: overlaps
SELECT id FROM orders WHERE (placed_at, interval '3 days') OVERLAPS ('2024-02-01'::timestamptz, '2024-02-05'::timestamptz) ORDER BY id

-- name: date_bin and make_date
SELECT date_bin('6 hours', happened_at, '2024-01-01') AS bin, count(*) FROM events WHERE happened_at >= make_date(2024, 6, 2) GROUP BY 1 ORDER BY 1

-- name: current moments
SELECT CURRENT_DATE <= now()::date AS a, CURRENT_TIMESTAMP = now() AS b, LOCALTIMESTAMP IS NOT NULL AS c, clock_timestamp() >= now() AS d

-- name: numbers
SELECT abs(-5), ceil(4.2), floor(4.8), round(4.567, 2), trunc(4.567, 1), mod(10, 3), power(2, 10), sqrt(16), sign(-3), 7 / 2, 7 % 3, greatest(1, 2), least(1, 2), gcd(12, 18)

-- name: casts
SELECT '42'::int, CAST('3.14' AS numeric(4, 2)), 'true'::boolean, 1::text, '2024-01-01'::timestamptz::date, total::int, status::text FROM orders ORDER BY id LIMIT 5

-- name: null handling
SELECT id, coalesce(notes, 'none'), nullif(city, 'Rome'), score IS DISTINCT FROM 10 AS different, num_nulls(notes, score) FROM customers ORDER BY id LIMIT 20

-- name: boolean tests
SELECT count(*) FROM customers WHERE active IS TRUE AND (score > 50) IS NOT UNKNOWN AND name IS NOT NULL

-- name: between
SELECT id FROM orders WHERE total BETWEEN 50 AND 60 OR total BETWEEN SYMMETRIC 510 AND 500 ORDER BY id

-- name: enum values
SELECT unnest(enum_range(NULL::order_status)) AS status, enum_first(NULL::order_status)

-- name: network addresses
SELECT DISTINCT network(set_masklen(source, 24)) AS net, host(source) LIKE '10.%' AS private FROM events WHERE source << '10.0.0.0/16' ORDER BY net

-- name: uuid and random are allowed
SELECT length(gen_random_uuid()::text) AS length, random() < 1 AS below_one

-- name: generate_series
SELECT n, n * n AS square FROM generate_series(1, 20, 3) AS n
