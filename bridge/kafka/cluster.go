package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// broker is what this room needs of cluster.Broker. Nothing here assumes that this node leads a
// partition or decides a change of the metadata: Partition answers cluster.ErrNotLeader where
// another broker leads, and changes go to the controller wherever it is.
type broker interface {
	NodeID() int32
	ClusterID() string
	ClockTrusted() bool
	HoldsLease() bool
	Confirm(ctx context.Context) error
	Image() *meta.Image
	WatchTopics(fn func(*meta.Image)) (stop func())
	Partition(topic string, index int32) (*cluster.Partition, error)
	Replica(id log.PartitionID) (cluster.Reader, error)
	OfflineReason(topic log.TopicID, index int32) error
	OpenTable(ctx context.Context, spec cluster.TopicSpec) (*cluster.Table, error)
	NextProducerID(ctx context.Context) (int64, error)
	CreateTopic(ctx context.Context, spec cluster.TopicSpec, validateOnly bool) (*meta.Topic, error)
	DeleteTopic(ctx context.Context, name string) error
	CreatePartitions(ctx context.Context, name string, total int, assignment [][]int32, validateOnly bool) error
	AlterConfigs(ctx context.Context, name string, set map[string]string, del []string, validateOnly bool) error
	EndTransaction(ctx context.Context, parts []log.PartitionID, m log.Marker) []error
	HandleCalls(m rpc.Method, h rpc.Handler)
	CallNode(ctx context.Context, broker int32, m rpc.Method, request any, raw []byte, answer any) (rpc.Reply, error)
	operated
}

var _ broker = (*cluster.Broker)(nil)

// endpoint is where a client reaches a broker.
type endpoint struct {
	id   int32
	host string
	port int32
	zone *string // Kafka's rack
}

// endpoints are the brokers that clients of c's listener may be told of, by id: those that are
// not fenced and have a listener of that kind.
func (s *Server) endpoints(c *conn, im *meta.Image) []endpoint {
	var all []endpoint
	for _, b := range im.Brokers() {
		if e, code := s.endpoint(c, im, b.ID); code == errNone {
			all = append(all, e)
		}
	}
	return all
}

// endpoint finds a broker for a client of c's listener: TLS clients stay on TLS. This node is told
// with the address that the client came by.
func (s *Server) endpoint(c *conn, im *meta.Image, id int32) (endpoint, int16) {
	b := im.Broker(id)
	if b == nil || b.Fenced {
		return endpoint{id: meta.NoLeader}, errLeaderNotAvailable
	}
	return s.address(c, b)
}

// address is endpoint for a broker that may be fenced.
func (s *Server) address(c *conn, b *meta.Broker) (endpoint, int16) {
	e := endpoint{b.ID, b.Host, b.KafkaPort, optional(b.Zone)}
	switch {
	case b.ID == s.broker.NodeID():
		e.host, e.port = c.listener.host, c.listener.port
	case c.listener.secure:
		e.port = b.KafkaTLSPort
	}
	if e.port == 0 {
		return endpoint{id: meta.NoLeader}, errListenerNotFound
	}
	return e, errNone
}

// appendLeader appends the tagged fields at the end of a partition of an answer to a client that has come to the wrong
// broker: with who leads it, where somebody does, which it notes in leaders.
//
//	int32 leader | int32 epoch
func (s *Server) appendLeader(b []byte, tag byte, topic string, index int32, leaders *[]int32) []byte {
	p := assignment(s.broker.Image(), topic, index)
	if p == nil || p.Leader == meta.NoLeader {
		return append(b, 0)
	}
	if !slices.Contains(*leaders, p.Leader) {
		*leaders = append(*leaders, p.Leader)
	}
	b = append(b, 1, tag, 4+4+1) // tags, tag, size
	b = appendInt32(b, p.Leader)
	b = appendInt32(b, int32(p.LeaderEpoch))
	return append(b, 0)
}

// appendEndpoints appends the tagged fields at the end of an answer that names leaders (KIP-951): tag 0, where
// clients of c's listener reach those brokers.
//
//	array of (int32 id | string host | int32 port | string rack)
func (s *Server) appendEndpoints(b []byte, c *conn, ids []int32) []byte {
	var all []endpoint
	im := s.broker.Image()
	for _, id := range ids {
		if e, code := s.endpoint(c, im, id); code == errNone {
			all = append(all, e)
		}
	}
	if len(all) == 0 {
		return append(b, 0)
	}
	field := appendArray(nil, len(all), true)
	for _, e := range all {
		field = appendInt32(field, e.id)
		field = appendString(field, e.host, true)
		field = appendInt32(field, e.port)
		if e.zone != nil {
			field = appendString(field, *e.zone, true)
		} else {
			field = append(field, 0)
		}
		field = append(field, 0)
	}
	b = append(b, 1, 0) // tags, tag
	b = appendUvarint(b, uint32(len(field)))
	return append(b, field...)
}

// controller is whom clients send their admin requests to. Every broker takes them, so it is this
// one as long as clients may be told of it.
func (s *Server) controller(all []endpoint) int32 {
	for _, e := range all {
		if e.id == s.broker.NodeID() {
			return e.id
		}
	}
	if len(all) > 0 {
		return all[0].id
	}
	return -1
}

// assignment is what the metadata says of a partition; nil when there is none of that name.
func assignment(im *meta.Image, topic string, index int32) *meta.Partition {
	t := im.Topic(topic)
	if t == nil || index < 0 || int(index) >= len(t.Partitions) {
		return nil
	}
	return &t.Partitions[index]
}

// partition finds a partition that this broker leads, with the code that says why it cannot.
func (s *Server) partition(topic string, index int32) (*cluster.Partition, int16) {
	p, err := s.broker.Partition(topic, index)
	if err != nil {
		return nil, codeOf(err)
	}
	return p, errNone
}

// partitionIn is partition for a client that has seen a leader epoch (KIP-320); -1 means that it
// does not say. One that knows of a later epoch than this broker is told so, whoever leads: it
// comes to a new leader that has not heard of that yet.
func (s *Server) partitionIn(topic string, index, seen int32) (*cluster.Partition, int16) {
	p, code := s.partition(topic, index)
	switch code {
	case errNone:
		if !s.broker.HoldsLease() { // R2: somebody else may lead by now, and have committed what is not here
			return nil, errNotLeaderOrFollower
		}
		if code = checkEpoch(p.LeaderEpoch(), seen); code != errNone {
			return nil, code
		}
	case errNotLeaderOrFollower:
		if mp := assignment(s.broker.Image(), topic, index); mp != nil {
			if c := checkEpoch(mp.LeaderEpoch, seen); c != errNone {
				return nil, c
			}
		}
	}
	return p, code
}

func checkEpoch(epoch log.Epoch, seen int32) int16 {
	switch {
	case seen < 0 || seen == int32(epoch):
		return errNone
	case seen < int32(epoch):
		return errFencedLeaderEpoch
	}
	return errUnknownLeaderEpoch
}

// losses wakes requests that wait for a partition when this broker may lead it no longer.
type losses struct {
	mu   sync.Mutex
	last *meta.Image
	next chan struct{} // closed at the next loss
}

// wait is closed when something is lost after the call.
func (l *losses) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == nil {
		l.next = make(chan struct{})
	}
	return l.next
}

// changed takes the metadata that has come into force. It does not block.
func (l *losses) changed(im *meta.Image, self int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last != nil && l.next != nil && loses(l.last, im, self) {
		close(l.next)
		l.next = nil
	}
	l.last = im
}

// loses says whether self led something in last that it does not lead in the same term in im.
func loses(last, im *meta.Image, self int32) bool {
	for _, t := range last.Topics() {
		now := im.TopicByID(t.ID)
		if now == t {
			continue // nothing of it has changed
		}
		for i := range t.Partitions {
			if p := &t.Partitions[i]; p.Leader == self &&
				(now == nil || now.Partitions[i].Leader != self || now.Partitions[i].LeaderEpoch != p.LeaderEpoch) {
				return true
			}
		}
	}
	return false
}

// maxControllerWait bounds how long a change of the metadata is waited for.
const maxControllerWait = time.Minute

// controllerWait is the time that the client gives a change of the metadata, within bounds.
func controllerWait(ctx context.Context, millis int32) (context.Context, context.CancelFunc) {
	d := time.Duration(millis) * time.Millisecond
	if d <= 0 || d > maxControllerWait {
		d = maxControllerWait
	}
	return context.WithTimeout(ctx, d)
}
