-- What analytics.py writes, and what grafana/dashboard.json shows.
CREATE TABLE IF NOT EXISTS readings (
  origin  text PRIMARY KEY,            -- <cluster>/<topic>/<partition>/<offset> at the edge: no reading is counted twice
  site    text        NOT NULL,
  device  text        NOT NULL,
  seq     bigint,                      -- of the device
  at      timestamptz NOT NULL,        -- when the gateway received it
  reading jsonb       NOT NULL
);
CREATE INDEX IF NOT EXISTS readings_by_device ON readings (site, device, at);

-- How far the consumer group is, written in the same transaction as the readings.
CREATE TABLE IF NOT EXISTS progress (topic text, partition int, next bigint NOT NULL, PRIMARY KEY (topic, partition));

-- Numeric fields by device and minute.
CREATE OR REPLACE VIEW figures AS
  SELECT site, device, date_trunc('minute', at) AS minute, f.key AS field, count(*) AS n, avg(f.value::numeric) AS mean, min(f.value::numeric) AS low, max(f.value::numeric) AS high
  FROM readings, jsonb_each(reading) AS f
  WHERE jsonb_typeof(f.value) = 'number' AND f.key NOT IN ('seq', 'ts')
  GROUP BY site, device, minute, field;

-- Devices with readings that are missing: the sequence numbers of each begin at 0 and have no gaps.
CREATE OR REPLACE VIEW missing AS
  SELECT site, device, max(seq) + 1 - count(DISTINCT seq) AS readings, max(at) AS last
  FROM readings WHERE seq IS NOT NULL GROUP BY site, device HAVING max(seq) + 1 > count(DISTINCT seq);
