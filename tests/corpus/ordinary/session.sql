-- Transaction control and harmless settings.

-- name: begin
BEGIN

-- name: begin with options
START TRANSACTION ISOLATION LEVEL READ COMMITTED

-- name: commit
COMMIT

-- name: end
END

-- name: rollback
ROLLBACK

-- name: abort
ABORT

-- name: savepoint
SAVEPOINT before_change

-- name: set local work memory
SET LOCAL work_mem = '8MB'

-- name: set application name
SET application_name = 'reporting'

-- name: set time zone
SET TIME ZONE 'UTC'

-- name: set date style
SET datestyle TO ISO, YMD
