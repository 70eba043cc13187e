package kafka

import (
	"strconv"
	"strings"

	"github.com/weir-io/weir/cluster"
	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/log"
)

// topicView is what the hot path needs to know of a topic, worked out once per change of
// the metadata instead of once per batch. It does not change once made.
type topicView struct {
	name            string
	id              log.TopicID
	version         uint64 // meta.Topic.Version
	internal        bool
	compact         bool
	maxMessageBytes int
}

// topicViews are the views of one image of the metadata.
type topicViews struct {
	version uint64
	byName  map[string]*topicView
	byID    map[log.TopicID]*topicView
}

// views is up to date with the metadata that this broker has applied. It is made anew when
// that has changed, and only topics that changed are looked at.
func (s *Server) views() *topicViews {
	im := s.broker.Image()
	if v := s.topics.Load(); v != nil && v.version == im.Version {
		return v
	}
	s.topicsMu.Lock()
	defer s.topicsMu.Unlock()
	old := s.topics.Load()
	if old != nil && old.version >= im.Version {
		return old
	}
	next := &topicViews{version: im.Version, byName: make(map[string]*topicView, len(im.Topics())), byID: make(map[log.TopicID]*topicView, len(im.Topics()))}
	for _, t := range im.Topics() {
		var v *topicView
		if old != nil {
			v = old.byName[t.Name]
		}
		if v == nil || v.id != t.ID || v.version != t.Version {
			v = newTopicView(t)
		}
		next.byName[t.Name], next.byID[t.ID] = v, v
	}
	s.topics.Store(next)
	return next
}

func newTopicView(t *meta.Topic) *topicView {
	policy, _ := cluster.ConfigValue(t, "cleanup.policy")
	size, _ := cluster.ConfigValue(t, "max.message.bytes")
	limit, err := strconv.Atoi(size)
	if err != nil {
		limit = 1 << 20 // written by a version with other ideas: Kafka's default, roughly
	}
	return &topicView{
		name: t.Name, id: t.ID, version: t.Version, internal: t.Internal,
		compact:         strings.Contains(policy, "compact"),
		maxMessageBytes: limit,
	}
}

// topic finds the view of a topic by the bytes of a request, which are not kept.
func (s *Server) topic(name []byte) *topicView {
	return s.views().byName[string(name)] // does not allocate
}

// allKeyed says whether every record of a validated batch has a key. Compacted topics are
// rare, and small for what they hold: a reader of its own for each batch will do.
func allKeyed(b log.Batch) bool {
	var r log.RecordReader
	if r.Reset(b) != nil {
		return false
	}
	var rec log.Record
	for {
		ok, err := r.Next(&rec)
		if err != nil || !ok {
			return err == nil
		}
		if rec.Key == nil {
			return false
		}
	}
}

// topicByID finds a topic by its id.
func (s *Server) topicByID(id [16]byte) *meta.Topic {
	return s.broker.Image().TopicByID(log.TopicID(id))
}

// outOfRange: R4.
func outOfRange(p *cluster.Partition, o log.Offset) bool {
	return o < p.LogStart() || o > max(p.LogEnd(), p.HighWatermark())
}
