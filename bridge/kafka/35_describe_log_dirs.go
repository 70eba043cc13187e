package kafka

import (
	"context"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/cluster"
)

// DescribeLogDirs (key 35): v1–5
//
// This broker's one log directory, with the replicas in it and what they take. Clients ask every broker.
//
//	v2  flexible
//	v3  an error for the whole request
//	v4  bytes of the file system, and those that are free
//	v5  whether the directory takes no new partitions: it always does
func (s *Server) describeLogDirs(_ context.Context, _ *conn, kreq kmsg.Request) (kmsg.Response, error) {
	req := kreq.(*kmsg.DescribeLogDirsRequest)
	dir := kmsg.NewDescribeLogDirsResponseDir()
	dir.Dir = s.logDir()
	stats := s.broker.LogStats()
	if stats.DiskTotalBytes > 0 { // else it has not been looked at yet
		dir.TotalBytes, dir.UsableBytes = stats.DiskTotalBytes, stats.DiskFreeBytes
	}
	if stats.Failed {
		dir.ErrorCode = errKafkaStorageError
	} else {
		dir.Topics = s.replicas(req.Topics)
	}
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	resp.Dirs = append(resp.Dirs, dir)
	return resp, nil
}

// logDir is the log directory as clients know it.
func (s *Server) logDir() string {
	dir := s.broker.LogDir()
	if path, err := filepath.Abs(dir); err == nil {
		return path
	}
	return dir
}

// replicas are those asked for (nil: all) that are open here, by topic. The lag is Kafka's: how far the log's end is behind the high watermark.
func (s *Server) replicas(asked []kmsg.DescribeLogDirsRequestTopic) (topics []kmsg.DescribeLogDirsResponseDirTopic) {
	here := s.broker.Partitions()
	selected := make(selection, len(here))
	for _, p := range here {
		selected[cluster.PartitionRef{Topic: p.Topic(), Index: p.Index()}] = asked == nil
	}
	for _, t := range asked {
		selected.ask(t.Topic, t.Partitions)
	}
	for _, p := range here {
		if !selected[cluster.PartitionRef{Topic: p.Topic(), Index: p.Index()}] {
			continue
		}
		if n := len(topics); n == 0 || topics[n-1].Topic != p.Topic() {
			rt := kmsg.NewDescribeLogDirsResponseDirTopic()
			rt.Topic = p.Topic()
			topics = append(topics, rt)
		}
		rp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		rp.Partition, rp.Size = p.Index(), p.Size()
		rp.OffsetLag = max(0, int64(p.HighWatermark()-p.LogEnd()))
		rt := &topics[len(topics)-1]
		rt.Partitions = append(rt.Partitions, rp)
	}
	return topics
}
