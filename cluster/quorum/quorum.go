package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// Status is what a node answers when it is asked for its place. It travels as it is.
type Status struct {
	Cluster string   `cbor:"1,keyasint,omitempty"` // Name of its cluster, "" while it is in none
	Known   bool     `cbor:"2,keyasint,omitempty"` // it is in a quorum, or has been
	List    []string `cbor:"3,keyasint,omitempty"` // whom it would form one with
	Applied uint64   `cbor:"4,keyasint,omitempty"` // newest entry applied there
	// Bound are the lists that it has told and that may have been agreed on.
	Bound [][]string `cbor:"5,keyasint,omitempty"`
	// Turn is another whenever the node has given up a list that it was bound to.
	Turn uint64 `cbor:"6,keyasint,omitempty"`
}

// Ask gets the Status of the node with m.ID, which is meant to be at m.Addr, over a connection that has proved who it is (C4).
type Ask func(ctx context.Context, m meta.Member) (Status, error)

// Paces: how often the leader looks at the members without being told of a change, and how long a node has to be up before it gets a vote.
const (
	Pace     = 30 * time.Second
	FastPace = 2 * time.Second
)

const maxMembers = 128

// Config says who a node is. Zero fields take the default in brackets.
type Config struct {
	ID     string // the broker's uuid
	Node   *meta.Node
	Gossip *gossip.Gossip
	Ask    Ask
	// Cluster is asked for the Name of this node's cluster, "" while it is in none. It must not block.
	Cluster func() string
	Expect  int  // nodes that form the quorum together; 0: this one waits to be added
	Join    bool // it was given addresses to join

	Pace   time.Duration // [Pace]
	Dead   time.Duration // how long a silent member keeps its place [1 h]
	Logger *slog.Logger  // [discard]
}

// Keeper forms and keeps a quorum. All its methods may be called concurrently; Form and Run are called once each.
type Keeper struct {
	cfg Config

	mu     sync.Mutex
	list   []string   // whom this node would form a quorum with
	bound  [][]string // lists that it has told and others may have agreed on, the newest last
	told   [][]string // lists that it has told since it began to ask the others
	turn   uint64     // of Status
	formed bool       // it is in the quorum of list
	why    string     // why it still waits, as logged

	sight map[string]sight // of Run
}

// New makes a Keeper.
func New(cfg Config) (*Keeper, error) {
	switch {
	case cfg.Expect < 0 || cfg.Expect > maxMembers:
		return nil, fmt.Errorf("expect %d nodes: want 0 to %d", cfg.Expect, maxMembers)
	case cfg.Expect == 1 && cfg.Join:
		return nil, errors.New("expect 1 makes a cluster of this node alone, and there are addresses to join: leave one of them out")
	}
	if cfg.Pace == 0 {
		cfg.Pace = Pace
	}
	if cfg.Dead == 0 {
		cfg.Dead = time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, turn: rand.Uint64(), sight: map[string]sight{}}, nil // a process before this one may have been bound as well
}

// Status is what this node answers to Ask.
func (k *Keeper) Status() Status {
	return k.status(Status{Cluster: k.cfg.Cluster(), Known: k.cfg.Node.Known(), Applied: k.cfg.Node.Applied()})
}

// status adds the list that this node stands by. Who got into a quorum otherwise stands by none.
func (k *Keeper) status(s Status) Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !s.Known || k.formed {
		k.tell()
		if s.List = k.list; !contains(k.told, k.list) {
			k.told = append(k.told, k.list)
		}
	}
	s.Bound, s.Turn = slices.Clone(k.bound), k.turn
	return s
}

// maxBound is how many lists a node can be bound to: more nodes than are expected make them, while they come and go.
const maxBound = 64

// tell binds this node to its list.
func (k *Keeper) tell() {
	if len(k.list) == 0 || contains(k.bound, k.list) {
		return
	}
	if len(k.bound) == maxBound {
		k.list = nil // it stays silent
		return
	}
	k.bound = append(k.bound, k.list)
}

func contains(lists [][]string, list []string) bool {
	return slices.ContainsFunc(lists, func(l []string) bool { return slices.Equal(l, list) })
}

// Name is what a cluster goes by among nodes, in greetings and gossip. Each generation has its own: a node whose metadata is from before a
// recovery must not mix with those after it (E2, C3).
func Name(clusterID string, generation uint32) string {
	if clusterID == "" || generation == 0 {
		return clusterID
	}
	return fmt.Sprintf("%s/%d", clusterID, generation)
}

// Address is where gossip says that a node is reached by others.
func Address(g *gossip.Gossip, id string) (addr string, known bool) {
	for _, m := range g.Recent() {
		if m.ID == id && m.Tags.Peer != "" {
			return m.Tags.Peer, true
		}
	}
	return "", false
}

// At is the node that gossip says is reached at addr.
func At(g *gossip.Gossip, addr string) (id string, known bool) {
	for _, m := range g.Recent() {
		if m.Status == gossip.Alive && m.Tags.Peer == addr {
			return m.ID, true
		}
	}
	return "", false
}

// ask asks all of ms at once. Who does not answer in time is left out.
func (k *Keeper) ask(ctx context.Context, ms []meta.Member) map[string]Status {
	ctx, cancel := context.WithTimeout(ctx, max(k.cfg.Pace/10, time.Second))
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	got := map[string]Status{}
	for _, m := range ms {
		asking.Go(func() {
			s, err := k.cfg.Ask(ctx, m)
			if err != nil {
				k.cfg.Logger.Debug("node does not say how it is", "node", m.ID, "addr", m.Addr, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[m.ID] = s
		})
	}
	asking.Wait()
	return got
}

// pause waits for news, at least shortest so that a storm of them makes no storm of calls, and at most longest.
func pause(ctx context.Context, shortest, longest time.Duration, news ...<-chan struct{}) {
	least, most := time.NewTimer(shortest), time.NewTimer(longest)
	defer least.Stop()
	defer most.Stop()
	woken := make(chan struct{}, len(news))
	stop := make(chan struct{})
	var waiting sync.WaitGroup
	for _, c := range news {
		waiting.Go(func() {
			select {
			case <-c:
				woken <- struct{}{}
			case <-stop:
			}
		})
	}
	select {
	case <-woken:
	case <-most.C:
	case <-ctx.Done():
	}
	close(stop)
	waiting.Wait()
	select {
	case <-least.C:
	case <-ctx.Done():
	}
}
