package model

import "fmt"

type kind uint8

const (
	kAppend kind = iota
	kSync
	kLie
	kApply
	kFetch
	kFetchLie
	kFetchLate
	kAlter
	kAlterLate
	kAlterCopy
	kArrive
	kArriveLie
	kArriveLate
	kArriveStay
	kCrash
	kCrashEpoch
	kLost
	kSite
	kSiteLost
	kRegister
	kRegisterLie
	kFence
	kUnfence
	kHandover
	kElect
	kRecover
	kStop
	kStall
	kStopped
	kStoppedLie
	kMin
	kMove
	kMoved
	kMovedBack
	kBackup
	kRestore
	kRetain
	kRead
	kReadFollower
	kLapse
	kRenew
	kDrop
	kNonce // those of the registration model follow
)

// Each sentence may use %[1]s and so on for a, b, c as brokers, and %[4]d to %[6]d for them as numbers.
var sentences = map[kind]string{
	kAppend:       "%[1]s appends",
	kSync:         "%[1]s syncs",
	kLie:          "%[1]s syncs, and its disk lies",
	kApply:        "%[1]s applies metadata",
	kFetch:        "%[1]s fetches",
	kFetchLie:     "%[1]s fetches, cuts its log, and its disk lies",
	kFetchLate:    "%[1]s sends a fetch that is late",
	kAlter:        "%[1]s proposes ISR set %[5]d",
	kAlterLate:    "%[1]s proposes ISR set %[5]d, late",
	kAlterCopy:    "%[1]s proposes ISR set %[5]d; a copy is late",
	kArrive:       "late message %[4]d arrives",
	kArriveLie:    "late message %[4]d arrives; a disk lies",
	kArriveLate:   "late message %[4]d arrives; the answer is late",
	kArriveStay:   "a copy of late message %[4]d arrives",
	kCrash:        "%[1]s crashes with log end %[5]d",
	kCrashEpoch:   "%[1]s crashes with log end %[5]d and epoch",
	kLost:         "%[1]s loses power and what its disk lied about",
	kSite:         "power cut everywhere",
	kSiteLost:     "power cut everywhere; the lied disk forgets",
	kRegister:     "%[1]s starts (elected: %[2]s)",
	kRegisterLie:  "%[1]s starts, its disk lies (elected: %[2]s)",
	kFence:        "controller fences %[1]s (elected: %[2]s)",
	kUnfence:      "controller hears %[1]s again (elected: %[2]s)",
	kHandover:     "controller prefers %[1]s",
	kElect:        "controller elects %[1]s",
	kRecover:      "all answered; controller elects %[1]s",
	kStop:         "%[1]s begins to stop (elected: %[2]s)",
	kStall:        "%[1]s is stalled (elected: %[2]s)",
	kStopped:      "%[1]s has stopped cleanly",
	kStoppedLie:   "%[1]s has stopped cleanly; its disk lies",
	kMin:          "min.insync becomes %[4]d",
	kMove:         "a move from %[1]s to %[2]s begins",
	kMoved:        "the move ends (elected: %[1]s)",
	kMovedBack:    "the move is called off (elected: %[1]s)",
	kBackup:       "the disk of %[1]s is copied",
	kRestore:      "the copy replaces the disk of %[1]s",
	kRetain:       "%[1]s moves its log start to %[5]d",
	kRead:         "consumer asks %[1]s",
	kReadFollower: "consumer asks follower %[1]s",
	kLapse:        "the lease of %[1]s lapses",
	kRenew:        "%[1]s renews its lease",
	kDrop:         "late message %[4]d is lost",

	kStart:    "directory %[4]d: start, nonce %[5]d",
	kRequest:  "request with nonce %[4]d arrives (%[5]d stays)",
	kConfirm:  "directory %[4]d: told BE %[5]d",
	kDeny:     "directory %[4]d: told that it is refused",
	kOld:      "directory %[4]d registers as an old copy",
	kDie:      "directory %[4]d: crash",
	kCopyAway: "directory 1 becomes a copy of 0",
}

func (st step) String() string {
	return fmt.Sprintf(sentences[st.kind]+"%[7]s", name(st.a), name(st.b), name(st.c), st.a, st.b, st.c, "")
}

// partition is the model of one partition: a machine.
type partition struct {
	rules
	n     uint8
	first state
	reads bool // leases and a consumer
}

func (p *partition) start() state { return p.first }

func (p *partition) show(s *state) string { return s.show(p.n) }

// stepper tries one step after the other on copies of one state.
type stepper struct {
	p    *partition
	from *state
	emit func(step, *state)
	to   state
}

func (t *stepper) try(k kind, a, b uint8, do func(s *state) bool) {
	t.to = *t.from
	if !do(&t.to) {
		return
	}
	t.watch()
	t.emit(step{kind: k, a: a, b: b}, &t.to)
}

// watch compares the state before and after.
func (t *stepper) watch() {
	if t.to.bad != ok {
		return
	}
	for i := range t.p.n {
		was, is := &t.from.brokers[i], &t.to.brokers[i]
		if t.from.leads(i) && t.to.leads(i) && was.be == is.be && t.from.view(i).le == t.to.view(i).le && is.hw < was.hw {
			t.to.bad = badHW
		}
	}
	if t.to.hist[0].le < t.from.hist[0].le {
		t.to.bad = badLE
	}
}

func (p *partition) next(s *state, emit func(step, *state)) {
	t := &stepper{p: p, from: s, emit: emit}
	if s.bad != ok || s.alone == 1 {
		return
	}
	for i := range p.n {
		p.brokerSteps(t, i)
		p.controllerSteps(t, i)
	}
	for to := uint8(1); to <= 2; to++ {
		t.try(kMin, to, 0, func(n *state) bool { return p.setMin(n, to) })
	}
	for pick := range p.n + 1 {
		who := pick
		if pick == p.n {
			who = none
		}
		t.try(kMoved, who, 0, func(n *state) bool { return p.moved(n, who, false) })
		t.try(kMovedBack, who, 0, func(n *state) bool { return p.moved(n, who, true) })
	}
	p.siteSteps(t)
	p.lateSteps(t)
}

func (p *partition) brokerSteps(t *stepper, i uint8) {
	b := &t.from.brokers[i]
	if b.up == 0 {
		t.try(kLost, i, 0, func(n *state) bool { return n.spend(crashes) && p.crash(n, i, 0, false, true) })
		t.try(kRestore, i, 0, func(n *state) bool { return n.restore(i) })
		return
	}
	t.try(kAppend, i, 0, func(n *state) bool { return p.append(n, i) })
	t.try(kSync, i, 0, func(n *state) bool { return p.sync(n, i, false) })
	t.try(kLie, i, 0, func(n *state) bool { return p.sync(n, i, true) })
	t.try(kApply, i, 0, func(n *state) bool { return p.apply(n, i) })
	p.fetchSteps(t, i)
	p.proposalSteps(t, i)
	for keep := b.dleo; keep <= b.leo; keep++ {
		t.try(kCrash, i, keep, func(n *state) bool { return n.spend(crashes) && p.crash(n, i, keep, false, false) })
	}
	t.try(kCrashEpoch, i, b.leo, func(n *state) bool { return n.spend(crashes) && p.crash(n, i, b.leo, true, false) })
	t.try(kLost, i, 0, func(n *state) bool { return n.spend(crashes) && p.crash(n, i, 0, false, true) })
	t.try(kStopped, i, 0, func(n *state) bool { return p.stopped(n, i, false) })
	t.try(kStoppedLie, i, 0, func(n *state) bool { return p.stopped(n, i, true) })
	t.try(kBackup, i, 0, func(n *state) bool { return n.copyDisk(i) })
	for to := b.start + 1; to <= b.hw; to++ {
		t.try(kRetain, i, to, func(n *state) bool { return n.retain(i, to) })
	}
	if p.reads {
		t.try(kRead, i, 0, func(n *state) bool { return p.read(n, i, false) })
		t.try(kReadFollower, i, 0, func(n *state) bool { return p.read(n, i, true) })
		t.try(kLapse, i, 0, func(n *state) bool { return n.lapse(i) })
		t.try(kRenew, i, 0, func(n *state) bool { return p.renew(n, i) })
	}
}

func (p *partition) fetchSteps(t *stepper, i uint8) {
	exchange := func(lie bool) func(n *state) bool {
		return func(n *state) bool {
			q, can := p.ask(n, i)
			if !can {
				return false
			}
			before := *n
			a, can := p.serve(n, q)
			if !can {
				return false
			}
			return p.take(n, a, lie) || !lie && *n != before
		}
	}
	t.try(kFetch, i, 0, exchange(false))
	if t.from.left[lies] > 0 {
		t.try(kFetchLie, i, 0, exchange(true))
	}
	t.try(kFetchLate, i, 0, func(n *state) bool {
		q, can := p.ask(n, i)
		return can && n.spend(late) && n.send(q)
	})
}

func (p *partition) proposalSteps(t *stepper, i uint8) {
	if !t.from.leads(i) {
		return
	}
	v := t.from.view(i)
	wishes := [...]uint8{v.isr, v.isr ^ 1, v.isr ^ 2, v.isr ^ 4, t.from.brokers[i].pend}
	for k, isr := range wishes {
		if k > 0 && isr == v.isr || isr >= bit(p.n) {
			continue
		}
		if k < 4 && isr == wishes[4] {
			continue
		}
		t.try(kAlter, i, isr, func(n *state) bool {
			m, can := p.propose(n, i, isr)
			return can && p.mayShrink(n, i, isr) && p.alter(n, m)
		})
		t.try(kAlterLate, i, isr, func(n *state) bool {
			m, can := p.propose(n, i, isr)
			return can && p.mayShrink(n, i, isr) && n.spend(late) && n.send(m)
		})
		t.try(kAlterCopy, i, isr, func(n *state) bool {
			m, can := p.propose(n, i, isr)
			return can && p.mayShrink(n, i, isr) && n.spend(copies) && p.alter(n, m) && n.send(m)
		})
	}
}

func (p *partition) controllerSteps(t *stepper, i uint8) {
	for pick := range p.n + 1 {
		who := pick
		if pick == p.n {
			who = none
		}
		t.try(kRegister, i, who, func(n *state) bool { return p.register(n, i, who, false) })
		t.try(kRegisterLie, i, who, func(n *state) bool { return p.register(n, i, who, true) })
		t.try(kFence, i, who, func(n *state) bool { return p.fence(n, i, who) })
		t.try(kUnfence, i, who, func(n *state) bool { return p.unfence(n, i, who) })
		t.try(kStop, i, who, func(n *state) bool { return p.stopping(n, i, who, stops) })
		t.try(kStall, i, who, func(n *state) bool { return p.stopping(n, i, who, stalls) })
	}
	t.try(kHandover, i, 0, func(n *state) bool { return p.handover(n, i) })
	t.try(kRecover, i, 0, func(n *state) bool { return p.recover(n, i) })
	t.try(kElect, i, 0, func(n *state) bool {
		im := n.hist[0]
		return im.leader == none && p.settle(&im, p.heard(n), false, i) && n.commit(im)
	})
	for to := range p.n {
		t.try(kMove, i, to, func(n *state) bool { return p.move(n, i, to) })
	}
}

// siteSteps cut the power of all: each disk keeps the least or the most of what it may.
func (p *partition) siteSteps(t *stepper) {
	if t.from.left[siteCuts] == 0 {
		return
	}
	for most := range bit(p.n) {
		for _, lost := range []bool{false, true} {
			k := kSite
			if lost {
				k = kSiteLost
			}
			t.try(k, most, 0, func(n *state) bool {
				n.spend(siteCuts)
				any := false
				for i := range p.n {
					b := &n.brokers[i]
					forgets := lost && n.real.who == i+1
					if b.up == 0 && !forgets {
						if most&bit(i) != 0 {
							return false
						}
						continue
					}
					any = true
					if forgets && most&bit(i) != 0 || b.leo == b.dleo && b.ep == b.dep && most&bit(i) != 0 {
						return false
					}
					keep := b.dleo
					if most&bit(i) != 0 {
						keep = b.leo
					}
					if !p.crash(n, i, keep, most&bit(i) != 0 && b.ep != b.dep, forgets) {
						return false
					}
				}
				return any && (!lost || t.from.real.who != 0)
			})
		}
	}
}

func (p *partition) lateSteps(t *stepper) {
	for k := range uint8(maxNet) {
		m := t.from.net[k]
		if m.kind == 0 {
			continue
		}
		t.try(kDrop, k, 0, func(n *state) bool { n.remove(k); return true })
		t.try(kArrive, k, 0, func(n *state) bool { n.remove(k); return p.arrive(n, m, false, false) })
		t.try(kArriveLie, k, 0, func(n *state) bool { n.remove(k); return p.arrive(n, m, false, true) })
		t.try(kArriveLate, k, 0, func(n *state) bool { n.remove(k); return m.kind == fetchRequest && p.arrive(n, m, true, false) })
		t.try(kArriveStay, k, 0, func(n *state) bool { return n.spend(copies) && p.arrive(n, m, false, false) })
	}
}

func (p *partition) arrive(s *state, m msg, answerLate, lie bool) bool {
	switch m.kind {
	case fetchRequest:
		a, can := p.serve(s, m)
		if !can {
			return false
		}
		if answerLate {
			return s.spend(late) && s.send(a)
		}
		p.take(s, a, lie)
		return true
	case fetchAnswer:
		return p.take(s, m, lie)
	default:
		return !lie && p.alter(s, m)
	}
}

// send makes m late. Late messages have no order.
func (s *state) send(m msg) bool {
	if s.net[maxNet-1].kind != 0 {
		return false
	}
	if s.net[0].kind == 0 {
		s.net[0] = m
	} else {
		s.net[1] = m
	}
	return true
}

func (s *state) remove(k uint8) {
	copy(s.net[k:], s.net[k+1:])
	s.net[maxNet-1] = msg{}
}

func (s *state) copyDisk(i uint8) bool {
	if s.backup.who != 0 || !s.spend(backups) {
		return false
	}
	s.backup = s.brokers[i].durable(i)
	return true
}

// restore puts the copy in place. One that was taken in the last life of the broker is not told from the original, and the
// design says so; the model does not try it (E5).
func (s *state) restore(i uint8) bool {
	b := &s.brokers[i]
	if s.backup.who != i+1 || s.backup.be == s.hist[0].be[i] {
		return false
	}
	b.load(s.backup)
	b.be = s.backup.be
	b.hw = b.start
	s.backup = disk{}
	if s.real.who == i+1 {
		s.real = disk{}
	}
	return true
}

func (s *state) retain(i, to uint8) bool {
	b := &s.brokers[i]
	if !s.leads(i) || !s.spend(retention) {
		return false
	}
	for o := b.start; o < to; o++ {
		b.log[o] = 0
	}
	b.start = to
	b.dleo = max(b.dleo, to)
	s.gone = max(s.gone, to)
	return true
}
