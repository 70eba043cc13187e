package group

import (
	"cmp"
	"slices"

	"github.com/weir-io/weir/bridge/group/assign"
)

// Topic is a topic that a group may read.
type Topic struct {
	Name     string
	Internal bool // patterns do not match it
	assign.Topic
}

// Topics is which topics there are at some moment. It is not changed once it is
// made, and shared by all groups.
type Topics struct {
	version uint64
	sorted  []*Topic // by name
	names   map[assign.TopicID]string
}

// NewTopics takes over the list. Versions tell two of them apart; 0 is none.
func NewTopics(version uint64, topics []*Topic) *Topics {
	slices.SortFunc(topics, func(a, b *Topic) int { return cmp.Compare(a.Name, b.Name) })
	t := &Topics{version: version, sorted: topics, names: make(map[assign.TopicID]string, len(topics))}
	for _, topic := range topics {
		t.names[topic.ID] = topic.Name
	}
	return t
}

// Version tells it from others.
func (t *Topics) Version() uint64 { return t.version }

// Name is the name of the topic with that id; false if there is none.
func (t *Topics) Name(id assign.TopicID) (string, bool) {
	name, ok := t.names[id]
	return name, ok
}

// ID is the id of the topic of that name; zero if there is none.
func (t *Topics) ID(name string) (id assign.TopicID) {
	if topic := t.find(name); topic != nil {
		id = topic.ID
	}
	return id
}

// find is the topic of that name; nil if there is none.
func (t *Topics) find(name string) *Topic {
	if i, ok := slices.BinarySearchFunc(t.sorted, name, func(t *Topic, name string) int { return cmp.Compare(t.Name, name) }); ok {
		return t.sorted[i]
	}
	return nil
}

// Same reports whether both are of the same topics, whatever their versions.
func (t *Topics) Same(u *Topics) bool {
	return slices.EqualFunc(t.sorted, u.sorted, func(a, b *Topic) bool { return *a == *b })
}

// Gone is which topics there were in t and are not in next, or are another
// incarnation there.
func (t *Topics) Gone(next *Topics) (gone []string) {
	for _, was := range t.sorted {
		if is := next.find(was.Name); is == nil || is.ID != was.ID {
			gone = append(gone, was.Name)
		}
	}
	return gone
}
