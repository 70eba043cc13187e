package main

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-io/weir/mqtt"
)

// Rooms keep plain counters and know nothing of Prometheus; this file turns their Stats into metrics when somebody asks.
// Names are weir_<room>_<thing>_<unit>[_total]; each room's doc.go says what its numbers mean.

// nodeCollector reads every room's Stats once per scrape.
type nodeCollector struct{ n *node }

// Describe sends nothing: the set is fixed, but stated in one place only, which is Collect.
func (nodeCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c nodeCollector) Collect(ch chan<- prometheus.Metric) {
	emit := func(kind prometheus.ValueType) func(name, help string, v float64) {
		return func(name, help string, v float64) {
			ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("weir_"+name, help, nil, nil), kind, v)
		}
	}
	gauge, total := emit(prometheus.GaugeValue), emit(prometheus.CounterValue)
	c.log(gauge, total)
	c.mqtt(gauge, total)
	c.kafka(gauge, total)
	c.partitions(ch)
}

type emitFunc func(name, help string, v float64)

func (c nodeCollector) log(gauge, total emitFunc) {
	s := c.n.broker.LogStats()
	total("log_commits_total", "Group commits; each is one write and one fdatasync of the journal.", float64(s.Commits))
	total("log_commit_bytes_total", "Bytes written to the journal.", float64(s.CommitBytes))
	total("log_segment_bytes_total", "Bytes written to segments.", float64(s.SegmentBytes))
	total("log_checkpoints_total", "Checkpoints.", float64(s.Checkpoints))
	gauge("log_checkpoint_seconds", "How long the last checkpoint took.", s.CheckpointTook.Seconds())
	gauge("log_commit_age_seconds", "How long the commit under way has taken; 0 if none.", s.CommitAge.Seconds())
	gauge("log_journal_live_bytes", "Journal bytes that recovery would read.", float64(s.JournalLiveBytes))
	total("log_journal_full_total", "Times the committer waited for a free journal file.", float64(s.JournalFull))
	total("log_busy_total", "Appends refused because too much waits for the disk.", float64(s.Busy))
	gauge("log_uncommitted_bytes", "Appended and not yet durable.", float64(s.UncommittedBytes))
	gauge("log_unwritten_bytes", "Durable in the journal and not yet in segments.", float64(s.UnwrittenBytes))
	total("log_corrupt_reads_total", "Reads that met a bad checksum.", float64(s.CorruptReads))
	total("log_segments_removed_total", "Segments deleted by retention or compaction.", float64(s.SegmentsRemoved))
	gauge("log_disk_free_bytes", "Free on the data directory's disk.", float64(s.DiskFreeBytes))
	gauge("log_disk_full", "1 while appends are refused for want of room.", bit(s.DiskFull))
	gauge("log_failed", "1 once a write or sync failed; the node stops.", bit(s.Failed))
}

func (c nodeCollector) mqtt(gauge, total emitFunc) {
	s := c.n.mqtt.Stats()
	gauge("mqtt_connections", "Open connections.", float64(s.Connections))
	gauge("mqtt_sessions", "Sessions, absent ones included.", float64(s.Sessions))
	total("mqtt_published_total", "Publishes handed to the log.", float64(s.Published))
	total("mqtt_delivered_total", "Messages written towards subscribers.", float64(s.Delivered))
	total("mqtt_refused_total", "Publishes and wills refused for good.", float64(s.Refused))
	total("mqtt_held_total", "Times a publish waited for a passing fault.", float64(s.Held))
	total("mqtt_held_closed_total", "Connections closed because a publish waited too long.", float64(s.HeldClosed))
	total("mqtt_expired_total", "Deliveries dropped because the message had expired.", float64(s.Expired))
	total("mqtt_lost_total", "Unacknowledged messages that could not be sent again.", float64(s.Lost))
	total("mqtt_denied_total", "Refused CONNECTs.", float64(s.Denied))
	total("mqtt_takeovers_total", "Sessions taken over by a new connection.", float64(s.Takeovers))
	total("mqtt_protocol_errors_total", "Connections closed because of what the client sent.", float64(s.ProtocolErrors))
	total("mqtt_slow_closed_total", "Connections closed because the client did not read.", float64(s.SlowClosed))
	total("mqtt_received_bytes_total", "Bytes read.", float64(s.BytesIn))
	total("mqtt_sent_bytes_total", "Bytes written.", float64(s.BytesOut))
}

func (c nodeCollector) kafka(gauge, total emitFunc) {
	s := c.n.kafka.Stats()
	gauge("kafka_connections", "Open connections.", float64(s.Connections))
	total("kafka_requests_total", "Requests.", float64(s.Requests))
	total("kafka_request_errors_total", "Requests that ended their connection.", float64(s.RequestErrors))
	total("kafka_produce_batches_total", "Batches appended or repeated.", float64(s.ProduceBatches))
	total("kafka_produce_rejected_total", "Batches answered with an error.", float64(s.ProduceRejected))
	total("kafka_fetch_bytes_total", "Bytes of batches sent.", float64(s.FetchBytes))
	gauge("kafka_fetch_waiting", "Fetches that wait for records.", float64(s.FetchWaiting))
	gauge("kafka_inflight_bytes", "Bytes of requests being read or handled.", float64(s.InflightBytes))
}

var (
	highWatermarkDesc = prometheus.NewDesc("weir_cluster_high_watermark_offset", "First offset that is not committed.", []string{"topic", "partition"}, nil)
	logStartDesc      = prometheus.NewDesc("weir_cluster_log_start_offset", "First offset that is kept.", []string{"topic", "partition"}, nil)
	sizeDesc          = prometheus.NewDesc("weir_cluster_partition_bytes", "Bytes of a partition's segments.", []string{"topic", "partition"}, nil)
)

func (c nodeCollector) partitions(ch chan<- prometheus.Metric) {
	for _, p := range c.n.broker.Partitions() {
		labels := []string{p.Topic(), itoa(p.Index())}
		ch <- prometheus.MustNewConstMetric(highWatermarkDesc, prometheus.GaugeValue, float64(p.HighWatermark()), labels...)
		ch <- prometheus.MustNewConstMetric(logStartDesc, prometheus.GaugeValue, float64(p.LogStart()), labels...)
		ch <- prometheus.MustNewConstMetric(sizeDesc, prometheus.GaugeValue, float64(p.Size()), labels...)
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// nodeStatus is what /api/v1/status answers and the console shows.
type nodeStatus struct {
	Node             string        `json:"node"`
	ClusterID        string        `json:"cluster_id"`
	Version          string        `json:"version"`
	Error            string        `json:"error,omitempty"`
	MQTTConnections  int64         `json:"mqtt_connections"`
	MQTTSessions     int64         `json:"mqtt_sessions"`
	KafkaConnections int64         `json:"kafka_connections"`
	LogCommits       int64         `json:"log_commits"`
	LogBytes         int64         `json:"log_bytes"`
	Topics           []topicStatus `json:"topics"`
}

type topicStatus struct {
	Name        string `json:"name"`
	Internal    bool   `json:"internal,omitempty"`
	Partitions  int    `json:"partitions"`
	Records     int64  `json:"records"`      // kept; an upper bound where a topic is compacted
	NextOffsets int64  `json:"next_offsets"` // sum over partitions; its growth is the rate of records
	Bytes       int64  `json:"bytes"`
}

func (n *node) status() nodeStatus {
	m := n.mqtt.Stats()
	s := nodeStatus{
		Node: n.cfg.Node.ID, ClusterID: n.broker.ClusterID(), Version: version,
		MQTTConnections: m.Connections, MQTTSessions: m.Sessions, KafkaConnections: n.kafka.Stats().Connections,
		LogCommits: n.broker.LogStats().Commits, Topics: []topicStatus{},
	}
	if err := n.broker.Err(); err != nil {
		s.Error = err.Error()
	}
	for _, topic := range n.broker.Image().Topics() {
		t := topicStatus{Name: topic.Name, Internal: topic.Internal, Partitions: len(topic.Partitions)}
		for i := range topic.Partitions {
			p, err := n.broker.PartitionByID(topic.ID, int32(i))
			if err != nil {
				continue
			}
			next := int64(p.HighWatermark())
			t.NextOffsets += next
			t.Records += next - int64(p.LogStart())
			t.Bytes += p.Size()
		}
		s.LogBytes += t.Bytes
		s.Topics = append(s.Topics, t)
	}
	return s
}

// routesInForce is what the routes API answers.
func (n *node) routesInForce() []mqtt.Route { return n.routing.Load().routes }

func itoa(n int32) string { return strconv.Itoa(int(n)) }
