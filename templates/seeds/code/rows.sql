-- A query on measurements; written for kdaug, in the public domain (CC0-1.0).
SELECT station, date(taken) AS day, avg(value) AS mean, count(*) AS readings
FROM measurement
WHERE value IS NOT NULL
GROUP BY station, date(taken)
HAVING count(*) >= 12
ORDER BY station, day;
