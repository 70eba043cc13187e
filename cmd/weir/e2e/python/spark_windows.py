"""Spark Structured Streaming: counts readings of each device by windows of five seconds. Arguments: bootstrap, topic, where the counts go, checkpoint directory."""
import sys

from pyspark.sql import SparkSession
from pyspark.sql.functions import col, concat_ws, count, window

bootstrap, readings, counts, checkpoint = sys.argv[1:]
spark = SparkSession.builder.appName("device-windows").getOrCreate()
records = spark.readStream.format("kafka").option("kafka.bootstrap.servers", bootstrap).option("subscribe", readings).option("startingOffsets", "earliest").load()
windows = (
    records.withWatermark("timestamp", "1 minute")
    .groupBy(col("key").cast("string").alias("device"), window("timestamp", "5 seconds"))
    .agg(count("*").alias("records"))
)
(
    windows.select(concat_ws("@", "device", col("window.start").cast("long")).alias("key"), col("records").cast("string").alias("value"))
    .writeStream.format("kafka").option("kafka.bootstrap.servers", bootstrap).option("topic", counts)
    .option("checkpointLocation", checkpoint).outputMode("update").trigger(processingTime="1 second")
    .start().awaitTermination()
)
