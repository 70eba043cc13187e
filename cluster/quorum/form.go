package quorum

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weir-io/weir/cluster/gossip"
	"github.com/weir-io/weir/cluster/meta"
)

// looksPerPace: a node that waits for others looks more often than a leader that keeps them.
const looksPerPace = 30

// Form returns once this node is in a quorum: at once when it was in one before, after forming it, or after it was added. It gives up
// when ctx ends, or when the addresses to join are those of another cluster.
func (k *Keeper) Form(ctx context.Context) error {
	every := k.cfg.Pace / looksPerPace
	for {
		news := k.cfg.Gossip.Changed()
		_, moved := k.cfg.Node.Leads()
		if k.cfg.Node.Known() {
			return nil
		}
		if err := k.cfg.Gossip.Stranger(); err != nil {
			return err
		}
		why, err := k.form(ctx)
		if err != nil {
			return err
		}
		k.waits(why)
		pause(ctx, every/10, every, news, moved)
		if ctx.Err() != nil {
			return fmt.Errorf("form the metadata quorum: %s: %w", why, context.Cause(ctx))
		}
	}
}

// waits logs why the node has no quorum yet, when that has changed.
func (k *Keeper) waits(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if why != k.why {
		k.why = why
		k.cfg.Logger.Info("no metadata quorum yet", "why", why)
	}
}

// form makes one attempt, and says why nothing came of it.
func (k *Keeper) form(ctx context.Context) (why string, err error) {
	if k.cfg.Expect == 0 || k.cfg.Cluster() != "" {
		return "waiting to be added by a node of the cluster", nil
	}
	seen := k.cfg.Gossip.Members()
	list, why := k.propose(seen)
	if list == nil {
		return why, nil
	}
	var all, others []meta.Member
	for _, m := range seen {
		if slices.Contains(list, m.ID) {
			all = append(all, meta.Member{ID: m.ID, Addr: cmp.Or(m.Tags.Peer, m.ID), Voter: true})
		}
	}
	for _, m := range all {
		if m.ID != k.cfg.ID {
			others = append(others, m)
		}
	}
	if why := k.agree(list, seen, func() map[string]Status { return k.ask(ctx, others) }); why != "" {
		return why, nil
	}
	voters := list[:votersOf(len(list))]
	if !slices.Contains(voters, k.cfg.ID) {
		return "waiting to be added by " + strings.Join(voters, ", "), nil
	}
	all = slices.DeleteFunc(all, func(m meta.Member) bool { return !slices.Contains(voters, m.ID) })
	if err := k.cfg.Node.Bootstrap(all); err != nil {
		if errors.Is(err, meta.ErrConflict) && !k.cfg.Node.Known() { // somebody on the list was faster, and its first messages are here
			return "the others form it", nil
		}
		k.settle(nil)
		if k.cfg.Node.Known() { // it was added meanwhile
			return "", nil
		}
		return "", err
	}
	k.cfg.Logger.Info("formed the metadata quorum", "voters", strings.Join(voters, ", "))
	return "", nil
}

// agree says why not all on list stand by it, "" when they do: then this node forms its quorum from it.
func (k *Keeper) agree(list []string, seen []gossip.Member, ask func() map[string]Status) (why string) {
	var before map[string]Status
	for range 2 { // so that all are bound to the list before anybody is asked the second time
		k.listen()
		answers := ask()
		why := disagree(k.cfg.ID, list, seen, answers)
		for id, a := range before {
			if why == "" && a.Turn != answers[id].Turn { // others may have heard that it was not bound
				why = fmt.Sprintf("node %s has changed its mind", id)
			}
		}
		if why != "" {
			k.reconsider(seen, answers)
			return why
		}
		before = answers
	}
	if !k.settle(list) {
		return "another list came up meanwhile"
	}
	return ""
}

// propose updates this node's list.
func (k *Keeper) propose(seen []gossip.Member) (list []string, why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list, why = choose(k.cfg.ID, k.cfg.Expect, k.bound, seen)
	return k.list, why
}

// settle notes whether this node forms its quorum from the list that it tells, and answers false if that is not list any more.
func (k *Keeper) settle(list []string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.formed = list != nil && slices.Equal(k.list, list)
	k.tell()
	return k.formed
}

// listen begins to note what is told from now on.
func (k *Keeper) listen() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told = nil
}

// reconsider is free again of lists that nobody can have agreed on, because one of their members is not bound to them. Those that were told
// since the others were asked stay: whoever was told may have bound that member since, and agreed.
func (k *Keeper) reconsider(seen []gossip.Member, answers map[string]Status) {
	k.mu.Lock()
	defer k.mu.Unlock()
	free := func(list []string) bool {
		return !contains(k.told, list) && slices.ContainsFunc(list, func(id string) bool {
			a, answered := answers[id]
			return answered && !contains(a.Bound, list)
		})
	}
	n := len(k.bound)
	if k.bound = slices.DeleteFunc(k.bound, free); len(k.bound) < n {
		k.turn++
	}
	k.list, _ = choose(k.cfg.ID, k.cfg.Expect, k.bound, seen) // at once: whoever asks next binds it again
}

// choose is the list of nodes that self would form a quorum with, by id; nil, and why, when there is none. bound are the lists that it
// has told others and that they may have agreed on, the newest last.
func choose(self string, expect int, bound [][]string, seen []gossip.Member) (list []string, why string) {
	var free []string
	for _, m := range seen {
		faster := slices.ContainsFunc(bound, func(l []string) bool { return slices.Contains(l, m.ID) })
		switch {
		case m.ID != self && inCluster(m) && !faster:
			if len(bound) == 0 {
				return nil, fmt.Sprintf("node %s is in a cluster: waiting to be added", m.ID)
			}
		case m.Status == gossip.Alive && canVote(m.Tags.Role) && m.Tags.Expect == expect && (m.Tags.Peer != "" || m.ID == self):
			free = append(free, m.ID)
		}
	}
	list, stay := keep(bound, free)
	if stay {
		return list, ""
	}
	slices.Sort(free)
	for _, id := range free {
		if len(list) < expect && !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	switch {
	case len(list) != expect && len(bound) > 0:
		return bound[len(bound)-1], ""
	case len(list) != expect:
		return nil, fmt.Sprintf("%d of %d nodes that expect %d are here", len(list), expect, expect)
	case !slices.Contains(list, self):
		return nil, fmt.Sprintf("%d other nodes that expect %d are here: waiting to be added by them", expect, expect)
	}
	return list, ""
}

// keep is what a new list has to contain: those of each bound list who are here, as long as they are its majority. Otherwise, or when the
// newest is whole, it stays.
func keep(bound [][]string, free []string) (list []string, stay bool) {
	for i, b := range slices.Backward(bound) {
		here := 0
		for _, id := range b {
			if slices.Contains(free, id) {
				here++
				if !slices.Contains(list, id) {
					list = append(list, id)
				}
			}
		}
		if i == len(bound)-1 && here == len(b) || here < majority(len(b)) {
			return bound[len(bound)-1], true
		}
	}
	return list, false
}

// disagree says why list is not agreed on, "" when it is.
func disagree(self string, list []string, seen []gossip.Member, answers map[string]Status) string {
	formed := false
	for _, id := range list {
		a, answered := answers[id]
		switch {
		case id == self:
		case !answered:
			return fmt.Sprintf("node %s does not answer", id)
		case slices.Equal(a.List, list) && a.Known: // it was faster
			formed = true
		case a.Cluster != "" || a.Known:
			return fmt.Sprintf("node %s is in a quorum: waiting to be added", id)
		case !slices.Equal(a.List, list):
			return fmt.Sprintf("node %s does not see the same %d nodes yet", id, len(list))
		}
	}
	for _, m := range seen {
		if !formed && !slices.Contains(list, m.ID) && inCluster(m) {
			return fmt.Sprintf("node %s is in a cluster: waiting to be added", m.ID)
		}
	}
	return ""
}

func inCluster(m gossip.Member) bool {
	return m.Status != gossip.Left && (m.Tags.Cluster != "" || m.Tags.Quorum)
}

func canVote(r gossip.Role) bool { return r == gossip.RoleNode || r == gossip.RoleWitness }

// votersOf is how many of n nodes vote.
func votersOf(n int) int {
	switch {
	case n >= 5:
		return 5
	case n >= 3:
		return 3
	}
	return 1
}

func majority(n int) int { return n/2 + 1 }
