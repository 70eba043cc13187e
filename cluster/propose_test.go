package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/weir-io/weir/cluster/meta"
	"github.com/weir-io/weir/cluster/rpc"
	"github.com/weir-io/weir/log"
)

// farQuorum is led by another node, which does what it is asked.
type farQuorum struct {
	metadata
	leader meta.UUID
}

func (farQuorum) Propose(context.Context, meta.Command) (any, error) { return nil, meta.ErrNotLeader }
func (q farQuorum) Leader() string                                   { return q.leader.String() }
func (farQuorum) Image() *meta.Image                                 { return meta.NewImage() }

func (farQuorum) call(_ context.Context, _ meta.UUID, _ rpc.Method, _ any, _ []byte, answer any) (rpc.Reply, error) {
	*answer.(*proposeAnswer) = proposeAnswer{}
	return rpc.Reply{}, nil
}

// A topic that somebody else deletes before its maker has looked is an error to the maker, and no topic.
func TestTopicThatIsGoneAtOnce(t *testing.T) {
	q := farQuorum{leader: meta.UUID{1}}
	p := &proposer{metadata: q, net: q, self: meta.UUID{2}, applied: func() <-chan struct{} { return nil }}
	got, err := propose[*meta.Topic](within(t), &controller{node: p}, &meta.CreateTopic{ID: log.TopicID{3}, Name: "a"})
	if !errors.Is(err, meta.ErrConflict) {
		t.Errorf("got %v, %v", got, err)
	}
}

// lateQuorum is led by another node, and what that has committed comes here only when somebody waits for it.
type lateQuorum struct {
	farQuorum
	image    *meta.Image // here
	newest   *meta.Image // there
	waits    bool        // somebody has begun to
	proposed []meta.Command
}

func (q *lateQuorum) Image() *meta.Image           { return q.image }
func (*lateQuorum) Leads() (bool, <-chan struct{}) { return false, nil }

func (q *lateQuorum) applied() <-chan struct{} {
	if q.waits {
		q.image = q.newest
	}
	q.waits = true
	c := make(chan struct{})
	close(c)
	return c
}

func (q *lateQuorum) call(_ context.Context, _ meta.UUID, _ rpc.Method, request any, _ []byte, answer any) (rpc.Reply, error) {
	switch a := answer.(type) {
	case *versionAnswer:
		a.Version = q.newest.Version
	case *proposeAnswer:
		cmd, err := meta.DecodeCommand(request.(proposeCall).Command)
		if err == nil {
			q.proposed = append(q.proposed, cmd)
			q.newest, _, err = q.newest.Apply(cmd)
		}
		if err != nil {
			return rpc.Reply{}, err
		}
		a.Version = q.newest.Version
	}
	return rpc.Reply{}, nil
}

// What was changed a moment ago through another broker counts: here it was not known yet, and an order was refused, or taken for nothing new.
func TestOrdersAreDecidedOnWhatTheQuorumHas(t *testing.T) {
	must := func(im *meta.Image, cmd meta.Command) *meta.Image {
		t.Helper()
		next, _, err := im.Apply(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	old := must(meta.NewImage(), &meta.RegisterBroker{ClusterID: "c", UUID: meta.UUID{1}})
	old = must(old, &meta.CreateTopic{ID: log.TopicID{3}, Name: "a", Configs: map[string]string{"retention.ms": "1"}, Assignment: [][]int32{{1}}, MinInsync: 1})
	changed := must(old, &meta.AlterConfigs{ID: log.TopicID{3}, Expect: old.Topic("a").Version, Set: map[string]string{"retention.ms": "2"}})
	gone := must(changed, &meta.DeleteTopic{ID: log.TopicID{3}, Expect: changed.Topic("a").Version})
	set := func(c *controller) error {
		_, err := c.alterConfigs(within(t), "a", map[string]string{"retention.ms": "1"}, nil, false)
		return err
	}
	create := func(c *controller) error {
		_, err := c.createTopic(within(t), TopicSpec{Name: "a", Partitions: 1}, false)
		return err
	}
	remove := func(c *controller) error {
		_, err := c.deleteTopic(within(t), "a")
		return err
	}
	for name, at := range map[string]struct {
		here, there *meta.Image
		order       func(*controller) error
	}{
		"a value that was changed meanwhile is set again": {old, changed, set},
		"a topic that was deleted is made again":          {old, gone, create},
		"a topic that was made is deleted":                {meta.NewImage(), old, remove},
		"a topic that was made is changed":                {meta.NewImage(), changed, set},
	} {
		q := &lateQuorum{farQuorum: farQuorum{leader: meta.UUID{1}}, image: at.here, newest: at.there}
		p := &proposer{metadata: q, net: q, self: meta.UUID{2}, applied: q.applied}
		if err := at.order(&controller{node: p, rand: rand.Reader, maxBatch: 1 << 20}); err != nil || len(q.proposed) != 1 {
			t.Errorf("%s: %v, proposed %+v", name, err, q.proposed)
		}
	}
}
