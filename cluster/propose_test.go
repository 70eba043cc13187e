package cluster

import (
	"context"
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
