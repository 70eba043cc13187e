package main

import "github.com/weir-io/weir/cluster"

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
	// Offline are partitions that take no records: their log is missing or damaged.
	Offline []cluster.OfflinePartition `json:"offline,omitempty"`
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
	s.Offline = n.broker.Offline()
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
