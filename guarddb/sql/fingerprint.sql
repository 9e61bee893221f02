-- One text that changes whenever anything the catalog snapshot was made from changes.
--
-- (xmin, ctid) names one version of a row: every ALTER writes a new version, also the second one in a transaction,
-- and a rollback brings the old one back. VACUUM keeps both (freezing sets hint bits only); it and ANALYZE write row
-- estimates in place. A hash of each, combined by XOR and counted, is one index range scan per catalog: user objects
-- have OIDs from 16384 (FirstNormalObjectId). The names of schemas, extensions and languages are in the snapshot, so
-- those catalogs count as a whole.
--
-- It runs under the session's own search_path. Every name is qualified, operators and types too: otherwise an
-- operator >=(oid, integer) in a schema of the path, or a temporary table called "text", would take its part.
--
-- It sees what the transaction's snapshot sees, while PostgreSQL resolves names by the newest catalogs: under
-- REPEATABLE READ another session's DDL shows up only in the next transaction.
SELECT pg_catalog.md5(pg_catalog.string_agg(parts.part, ' ' ORDER BY parts.part COLLATE pg_catalog."C")) FROM (
  SELECT pg_catalog.concat('n', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8))) AS part
    FROM pg_catalog.pg_namespace
  UNION ALL
  SELECT pg_catalog.concat('x', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_extension
  UNION ALL
  SELECT pg_catalog.concat('l', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_language
  UNION ALL
  SELECT pg_catalog.concat('i', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_inherits
  UNION ALL
  SELECT pg_catalog.concat('r', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_class
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('a', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_attribute
    WHERE attrelid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('p', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_proc
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('w', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_rewrite
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('o', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_operator
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('c', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_cast
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('t', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_type
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('k', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_constraint
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('g', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_trigger
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('s', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_collation
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  -- The snapshot holds no policies of row security, but a wall is made of them.
  SELECT pg_catalog.concat('y', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_policy
    WHERE oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  -- What generated columns are computed from, and what operators say of columns.
  SELECT pg_catalog.concat('d', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_attrdef
    WHERE adrelid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('m', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_description
    WHERE objoid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      AND classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
  UNION ALL
  SELECT pg_catalog.concat('b', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_seclabel
    WHERE objoid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
      AND classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
  UNION ALL
  -- Which objects belong to an extension (ALTER EXTENSION ... ADD writes nothing else).
  SELECT pg_catalog.concat('e', pg_catalog.count(*), ':',
    pg_catalog.bit_xor(pg_catalog.hashtidextended(ctid, xmin::pg_catalog.text::pg_catalog.int8)))
    FROM pg_catalog.pg_depend
    WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_extension'::pg_catalog.regclass::pg_catalog.oid
      AND deptype OPERATOR(pg_catalog.=) 'e'::pg_catalog."char"
) AS parts
