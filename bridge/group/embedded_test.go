package group

import (
	"testing"

	"github.com/weir-io/weir/bridge/group/assign"
)

// FuzzEmbedded: no bytes of a client make a panic; what is read as an assignment is written back to the same partitions.
func FuzzEmbedded(f *testing.F) {
	topics := NewTopics(1, []*Topic{
		{Name: "t", Topic: assign.Topic{ID: assign.TopicID{1}, Partitions: 4}}, {Name: "u", Topic: assign.Topic{ID: assign.TopicID{2}, Partitions: 1}},
	})
	all := assign.Set{{Topic: assign.TopicID{1}, Index: 0}, {Topic: assign.TopicID{1}, Index: 3}, {Topic: assign.TopicID{2}, Index: 0}}
	f.Add(subscribe("t", "u"))
	f.Add(subscribeOwning(all, topics, "t"))
	f.Add(writeAssignment([]byte{0, 3}, all, topics))
	f.Add([]byte{0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if reads, owned, ok := readSubscription(in, topics); ok && (len(reads) > len(in)/2 || len(owned) > 5) {
			t.Fatalf("%d topics and %d partitions of %d bytes", len(reads), len(owned), len(in))
		}
		set, ok := readAssignment(in, topics)
		if !ok {
			return
		}
		if again, ok := readAssignment(writeAssignment(in, set, topics), topics); !ok || !again.Equal(set) {
			t.Fatalf("%v was %v", again, set)
		}
	})
}
