package quorum

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// sight is since when a node looks as it does to this leader.
type sight struct {
	up, down time.Time
	said     bool // that it is a stranger
}

// Run keeps the members while this node leads the quorum, until ctx ends. It returns an error when the addresses to join turn out, at
// their first try, to be those of another cluster: then this node has the wrong directory or the wrong addresses, and must not go on.
func (k *Keeper) Run(ctx context.Context) error {
	tried := k.cfg.Gossip.Tried()
	for ctx.Err() == nil {
		news := k.cfg.Gossip.Changed()
		leads, moved := k.cfg.Node.Leads()
		select {
		case <-tried:
			tried = nil
			if err := k.cfg.Gossip.Stranger(); err != nil {
				return err
			}
		default:
		}
		switch {
		case leads:
			k.reconcile(ctx)
			pause(ctx, k.cfg.Pace/15, k.cfg.Pace, news, moved, tried)
		default:
			clear(k.sight)
			pause(ctx, 0, k.cfg.Pace, moved, tried)
		}
	}
	return nil
}

// reconcile makes changes until none is needed, or one does not succeed: then it looks again at the next occasion.
func (k *Keeper) reconcile(ctx context.Context) {
	for range 2 * maxMembers {
		v, err := k.look(ctx)
		if err != nil || ctx.Err() != nil {
			return
		}
		c := next(time.Now(), v, rules{k.cfg.Pace, k.cfg.Dead})
		if c.kind == nothing {
			return
		}
		err = k.make(c, v.index)
		if errors.Is(err, meta.ErrNotLeader) {
			return
		}
		if err != nil {
			k.cfg.Logger.Warn("cannot change the metadata quorum yet", "node", c.member.ID, "error", err)
			return
		}
		k.cfg.Logger.Info("changed the metadata quorum", "change", c.kind.String(), "node", c.member.ID, "addr", c.member.Addr,
			"voter", c.member.Voter, "why", c.why)
	}
}

func (k kind) String() string {
	return [...]string{"nothing", "set", "demote", "remove", "hand over"}[k]
}

func (k *Keeper) make(c change, index uint64) error {
	n := k.cfg.Node
	switch c.kind {
	case set:
		return n.SetMember(c.member, index)
	case demote:
		return n.Demote(c.member.ID, index)
	case remove:
		return n.RemoveMember(c.member.ID, index)
	case handOver:
		return n.HandOver()
	}
	return nil
}

// look joins the configuration, what gossip says, and what the nodes answer.
func (k *Keeper) look(ctx context.Context) (view, error) {
	ms, index, err := k.cfg.Node.Members()
	if err != nil {
		return view{}, err
	}
	v := view{self: k.cfg.ID, cluster: k.cfg.Cluster(), index: index, applied: k.cfg.Node.Applied()}
	v.nodes = join(ms, k.cfg.Gossip.Members())
	v.marked(k.cfg.Node.Image())
	var others []meta.Member
	for _, n := range v.nodes {
		if addr := n.reach(); n.id != v.self && addr != "" && (n.member || n.status == gossip.Alive) {
			others = append(others, meta.Member{ID: n.id, Addr: addr})
		}
	}
	v.heard(k.ask(ctx, others[:min(len(others), 2*maxMembers)]))
	k.saw(v.nodes, time.Now())
	return v, nil
}

// reach is where to ask a node.
func (n node) reach() string {
	if n.addr == "" && n.at != n.id {
		return n.at
	}
	return n.addr
}

// join lists members and those whom gossip knows, by id.
func join(ms []meta.Member, seen []gossip.Member) (ns []node) {
	for _, m := range ms {
		ns = append(ns, node{id: m.ID, member: true, voter: m.Voter, at: m.Addr, votes: true})
	}
	for _, s := range seen {
		i := slices.IndexFunc(ns, func(n node) bool { return n.id == s.ID })
		if i < 0 {
			i, ns = len(ns), append(ns, node{id: s.ID})
		}
		ns[i].addr, ns[i].status, ns[i].votes = s.Tags.Peer, s.Status, canVote(s.Tags.Role)
	}
	slices.SortFunc(ns, func(a, b node) int { return strings.Compare(a.id, b.id) })
	return ns
}

// marked takes in what an operator has said of nodes. Who is in no metadata was removed, or has
// not registered yet; the latter is not silent for long.
func (v *view) marked(im *meta.Image) {
	for i := range v.nodes {
		n := &v.nodes[i]
		n.removed = true
		for _, b := range im.Brokers() {
			if b.UUID.String() == n.id {
				n.removed, n.draining = false, b.Draining
				n.votes = n.votes && !b.Draining
			}
		}
	}
}

// heard takes the answers in. Until saw, up and down only say which of the two it is.
func (v *view) heard(answers map[string]Status) {
	for i := range v.nodes {
		n := &v.nodes[i]
		a, answered := answers[n.id]
		n.applied = a.Applied
		n.stranger = a.Cluster != "" && a.Cluster != v.cluster || a.Cluster == "" && a.Known && !n.member
		switch {
		case answered && n.status != gossip.Failed:
			n.up = time.Unix(1, 0)
		case !answered && n.status != gossip.Alive:
			n.down = time.Unix(1, 0)
		}
	}
}

// saw replaces up and down by the times since when they hold.
func (k *Keeper) saw(ns []node, now time.Time) {
	since := func(is, before time.Time) time.Time {
		switch {
		case is.IsZero():
			return time.Time{}
		case before.IsZero():
			return now
		}
		return before
	}
	seen := map[string]sight{}
	for i := range ns {
		n := &ns[i]
		before := k.sight[n.id]
		s := sight{since(n.up, before.up), since(n.down, before.down), n.stranger}
		if n.stranger && !before.said {
			k.cfg.Logger.Warn("a node is not added: its metadata is that of another quorum: start it with an empty data directory", "node", n.id, "addr", n.addr)
		}
		n.up, n.down, seen[n.id] = s.up, s.down, s
	}
	k.sight = seen
}
