-- What a person with a dashboard asks.

-- name: count rows
SELECT count(*) FROM orders

-- name: filter, sort, limit
SELECT id, name, city FROM customers WHERE active AND country = 'DE' ORDER BY name LIMIT 10

-- name: revenue by status
SELECT status, count(*) AS n, sum(total) AS revenue FROM orders GROUP BY status ORDER BY status

-- name: revenue by month
SELECT date_trunc('month', placed_at) AS month, sum(total) AS revenue
FROM orders WHERE placed_at < now() GROUP BY 1 ORDER BY 1

-- name: having
SELECT customer_id, count(*) AS n FROM orders GROUP BY customer_id HAVING count(*) > 2 ORDER BY n DESC, customer_id

-- name: filtered aggregates
SELECT country, count(*) FILTER (WHERE active) AS active, count(*) FILTER (WHERE NOT active) AS gone
FROM customers GROUP BY country ORDER BY country

-- name: percentiles
SELECT status, percentile_cont(0.5) WITHIN GROUP (ORDER BY total) AS median,
  percentile_disc(ARRAY[0.25, 0.75]) WITHIN GROUP (ORDER BY total) AS quartiles,
  mode() WITHIN GROUP (ORDER BY shipped_on) AS busiest
FROM orders GROUP BY status ORDER BY status

-- name: hypothetical rank
SELECT rank(100) WITHIN GROUP (ORDER BY total) AS rank, round(cume_dist(100) WITHIN GROUP (ORDER BY total)::numeric, 4)
FROM orders

-- name: grouping sets
SELECT country, city, count(*), grouping(country, city) AS level
FROM customers GROUP BY GROUPING SETS ((country, city), (country), ()) ORDER BY level, country, city

-- name: rollup
SELECT c.country, o.status, sum(o.total)
FROM orders o JOIN customers c ON c.id = o.customer_id
GROUP BY ROLLUP (c.country, o.status) ORDER BY c.country NULLS LAST, o.status NULLS LAST

-- name: cube
SELECT method, paid_at IS NULL AS open, count(*) FROM payments GROUP BY CUBE (method, 2) ORDER BY 1 NULLS LAST, 2 NULLS LAST

-- name: statistics
SELECT round(avg(total), 2) AS mean, round(stddev_samp(total), 2) AS deviation, min(total), max(total),
  round(corr(total, customer_id)::numeric, 6) AS correlation
FROM orders

-- name: case buckets
SELECT CASE WHEN total < 50 THEN 'small' WHEN total < 200 THEN 'medium' ELSE 'large' END AS bucket, count(*)
FROM orders GROUP BY bucket ORDER BY bucket

-- name: width_bucket histogram
SELECT width_bucket(total, 0, 1000, 10) AS bucket, count(*) FROM orders GROUP BY 1 ORDER BY 1

-- name: distinct on
SELECT DISTINCT ON (customer_id) customer_id, id, placed_at FROM orders ORDER BY customer_id, placed_at DESC

-- name: distinct
SELECT DISTINCT country, active FROM customers ORDER BY country, active

-- name: count distinct
SELECT count(DISTINCT customer_id) AS buyers, count(DISTINCT (customer_id, status)) AS pairs FROM orders

-- name: top n per group with lateral
SELECT c.id, c.name, latest.id AS order_id, latest.total
FROM customers c
CROSS JOIN LATERAL (SELECT o.id, o.total FROM orders o WHERE o.customer_id = c.id ORDER BY o.placed_at DESC LIMIT 2) latest
WHERE c.country = 'FR' ORDER BY c.id, latest.id

-- name: calendar with gaps filled
SELECT d::date AS day, count(o.id) AS orders
FROM generate_series('2024-01-01'::timestamptz, '2024-01-20', interval '1 day') AS d
LEFT JOIN orders o ON o.placed_at >= d AND o.placed_at < d + interval '1 day'
GROUP BY d ORDER BY d

-- name: share of total
SELECT status, round(100 * sum(total) / sum(sum(total)) OVER (), 2) AS percent FROM orders GROUP BY status ORDER BY status

-- name: cohort retention
WITH first_order AS (
  SELECT customer_id, min(date_trunc('month', placed_at)) AS cohort FROM orders GROUP BY customer_id
)
SELECT f.cohort, date_trunc('month', o.placed_at) AS month, count(DISTINCT o.customer_id) AS customers
FROM first_order f JOIN orders o USING (customer_id) GROUP BY 1, 2 ORDER BY 1, 2

-- name: pivot with filter
SELECT extract(year FROM placed_at) AS year,
  sum(total) FILTER (WHERE status = 'paid') AS paid, sum(total) FILTER (WHERE status = 'shipped') AS shipped
FROM orders GROUP BY 1 ORDER BY 1

-- name: sample
SELECT count(*) FROM events TABLESAMPLE BERNOULLI (100) REPEATABLE (42)

-- name: system sample
SELECT count(*) >= 0 AS ok FROM products TABLESAMPLE SYSTEM (50)

-- name: fetch first with ties
SELECT id, quantity FROM (SELECT order_id * 10 + line AS id, quantity FROM order_items) i
ORDER BY quantity DESC, id FETCH FIRST 5 ROWS ONLY

-- name: offset paging
SELECT id, name FROM products ORDER BY id LIMIT 10 OFFSET 20

-- name: keyset paging
SELECT id, placed_at FROM orders WHERE (placed_at, id) > ('2024-03-01 00:00+00', 10) ORDER BY placed_at, id LIMIT 5
