package mqtt

import (
	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
)

// groupPartition is the partition of the sessions table whose leader leads a shared subscription.
func (s *Server) groupPartition(group string) int {
	var key [128]byte // mostly enough
	return PartitionFor(append(append(key[:0], deliver.GroupKeyPrefix...), group...), s.holdings.n)
}

// leaders is where shared subscriptions are led, nil for a server that is alone.
func (s *Server) leaders() deliver.Away {
	if s.cfg.Owners == nil {
		return nil
	}
	return shareLinks{s}
}

// shareLinks implements deliver.Away.
type shareLinks struct{ s *Server }

func (a shareLinks) PartitionOf(group string) int { return a.s.groupPartition(group) }

func (a shareLinks) of(group string) *shareLink {
	return &a.s.holdings.homes[a.s.groupPartition(group)].shares
}

func (a shareLinks) Member(group string, number uint64) {
	l := a.of(group)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tell == nil {
		l.tell = map[uint64]struct{}{}
	}
	l.tell[number] = struct{}{}
	l.pushLocked()
}

func (a shareLinks) Gone(group, clientID string, number uint64, how deliver.Leaving) {
	l := a.of(group)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.gone) < shareGoneMax {
		l.gone = append(l.gone, shareGone{Number: number, Group: group, Client: clientID, How: how})
	}
	l.pushLocked()
}

func (a shareLinks) Done(group string, number uint64, id log.PartitionID, offset log.Offset) {
	a.of(group).answer(frameDone, number, placeBytes(id, offset))
}

func (a shareLinks) Back(group string, number uint64, id log.PartitionID, offset log.Offset, full bool) {
	kind := byte(frameBack)
	if full {
		kind = frameFull
	}
	a.of(group).answer(kind, number, placeBytes(id, offset))
}

func (a shareLinks) Room(group string, number uint64) { a.of(group).answer(frameRoom, number, nil) }

// keepShares keeps the streams about shared subscriptions alive that have nothing else to say.
func (s *Server) keepShares() {
	for i := range s.holdings.homes {
		hm := &s.holdings.homes[i]
		hm.shares.alive()
		hm.mu.Lock()
		for x := range hm.hosts {
			x.send(func(f *frames) { f.end(f.begin(frameAlive, 0)) })
		}
		hm.mu.Unlock()
	}
}
