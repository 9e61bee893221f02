-- jsonb, SQL/JSON and arrays.

-- name: arrow operators
SELECT id, payload->'geo'->>'lat' AS lat, payload#>>'{items,0,sku}' AS sku FROM events ORDER BY id LIMIT 20

-- name: containment
SELECT count(*) FROM events WHERE payload @> '{"ok": true}'

-- name: key exists
SELECT count(*) FROM products WHERE attributes ? 'color' AND attributes ?& ARRAY['weight', 'sizes'] AND NOT attributes ?| ARRAY['x']

-- name: jsonpath operators
SELECT id FROM events WHERE payload @? '$.items[*] ? (@.n > 2)' AND payload @@ '$.user < 50' ORDER BY id

-- name: jsonb_path_query
SELECT e.id, item FROM events e, jsonb_path_query(e.payload, '$.items[*].sku') AS item WHERE e.id < 12 ORDER BY e.id, item

-- name: jsonb_array_elements
SELECT e.id, x->>'sku' AS sku, (x->>'n')::int AS n FROM events e CROSS JOIN LATERAL jsonb_array_elements(e.payload->'items') AS x WHERE jsonb_typeof(e.payload->'items') = 'array' ORDER BY e.id, n LIMIT 20

-- name: jsonb_to_recordset
SELECT r.sku, sum(r.n) FROM events, jsonb_to_recordset(CASE WHEN jsonb_typeof(payload->'items') = 'array' THEN payload->'items' ELSE '[]' END) AS r (sku text, n int) GROUP BY r.sku ORDER BY r.sku

-- name: jsonb_each_text
SELECT DISTINCT k FROM products, jsonb_each_text(attributes) AS a (k, v) ORDER BY k

-- name: object and array aggregates
SELECT country, jsonb_object_agg(id, name ORDER BY id) AS names, json_agg(city ORDER BY id) AS cities FROM customers WHERE id < 20 GROUP BY country ORDER BY country

-- name: build documents
SELECT jsonb_build_object('id', o.id, 'lines', (SELECT jsonb_agg(to_jsonb(i) ORDER BY i.line) FROM order_items i WHERE i.order_id = o.id)) FROM orders o WHERE o.id <= 3 ORDER BY o.id

-- name: row_to_json
SELECT row_to_json(c) FROM (SELECT id, name FROM categories ORDER BY id) AS c

-- name: jsonb_set and delete
SELECT id, jsonb_set(attributes, '{dimensions,w}', '0') - 'sizes' #- '{dimensions,h}' AS changed FROM products ORDER BY id LIMIT 5

-- name: jsonb subscript
SELECT id, attributes['dimensions']['w'] AS w FROM products ORDER BY id LIMIT 5

-- name: jsonb_pretty
SELECT jsonb_pretty(attributes) FROM products WHERE id = 1

-- name: json constructors
SELECT JSON_OBJECT('id' VALUE id, 'name': name ABSENT ON NULL) AS o, JSON_ARRAY(id, name) AS a FROM categories ORDER BY id

-- name: json aggregate constructors
SELECT JSON_ARRAYAGG(name ORDER BY id) AS names, JSON_OBJECTAGG(id: name) AS by_id FROM categories WHERE id = 1

-- name: is json
SELECT v, v IS JSON AS any, v IS JSON OBJECT AS object FROM (VALUES ('{}'), ('[1]'), ('no')) AS t (v) ORDER BY v

-- name: json_value and json_query
SELECT id, JSON_VALUE(payload, '$.geo.lat' RETURNING int) AS lat, JSON_QUERY(payload, '$.items' WITH WRAPPER) AS items, JSON_EXISTS(payload, '$.ok') AS has_ok FROM events ORDER BY id LIMIT 10

-- name: json_table
SELECT e.id, t.sku, t.n FROM events e, JSON_TABLE(e.payload, '$.items[*]' COLUMNS (sku text PATH '$.sku', n int PATH '$.n')) AS t WHERE e.id < 10 ORDER BY e.id, t.n

-- name: array containment and overlap
SELECT id, name FROM products WHERE tags @> ARRAY['new'] AND tags && ARRAY['red', 'blue'] ORDER BY id

-- name: any of an array
SELECT id FROM events WHERE 'app' = ANY (labels) AND numbers[2] = 3 ORDER BY id

-- name: array functions
SELECT id, array_length(tags, 1), cardinality(numbers), array_position(labels, 'web'), numbers[1:2], array_to_string(labels, '|')
FROM (SELECT e.id, e.labels, e.labels AS tags, e.numbers FROM events e) t ORDER BY id LIMIT 10

-- name: array_agg
SELECT kind, array_agg(id ORDER BY id DESC) FILTER (WHERE id < 30) AS ids FROM events GROUP BY kind ORDER BY kind

-- name: array from subquery
SELECT c.id, ARRAY(SELECT o.id FROM orders o WHERE o.customer_id = c.id ORDER BY o.id) AS orders FROM customers c ORDER BY c.id LIMIT 10

-- name: unnest and group
SELECT tag, count(*) FROM products, unnest(tags) AS tag GROUP BY tag ORDER BY count(*) DESC, tag

-- name: array concatenation and removal
SELECT array_remove(tags || 'extra'::text, 'red'), array_append(tags, 'x'), array_cat(tags, ARRAY['y']) FROM products ORDER BY id LIMIT 3

-- name: composite fields
SELECT id, (home).city, (home).zip FROM customers WHERE (home).city IS NOT NULL ORDER BY id LIMIT 10

-- name: ranges
SELECT id, lower(available), upper_inf(available) FROM products WHERE available @> '2024-12-25'::date AND available && daterange('2024-01-01', '2024-02-01') ORDER BY id

-- name: range aggregate
SELECT range_agg(available) AS spans FROM products WHERE id % 4 <> 0
