package deliver

import "slices"

// retainedRun is what is left to send for one SUBSCRIBE.
type retainedRun struct {
	name   string // filter as subscribed, never a shared one
	found  bool   // msgs is what the index had for it
	qos    byte
	ids    []uint32
	again  bool // after a restart: QoS 1 only
	msgs   []*retainedMsg
	loaded []*retainedMsg // values read from the table for messages that are not in memory
}

// Retained is what one SUBSCRIBE is due of retained messages. Nil is nothing.
type Retained struct{ run *retainedRun }

// FindRetained notes the retained messages for a subscription just made, as its retain handling says (MQTT 5.0
// §3.3.1.3): always, only if it is new, or never; never for a shared one. It is called before SUBACK leaves, so that what is
// retained after that comes as a live message alone. noted is how many the same SUBSCRIBE has found for other filters.
func (h *Hub) FindRetained(clientID string, sub Sub, existed bool, noted int) *Retained {
	s := h.session(clientID)
	group, filter, err := ParseFilter(sub.name())
	if s == nil || err != nil || group != "" || sub.RetainHandling == 2 || sub.RetainHandling == 1 && existed {
		return nil
	}
	run := &retainedRun{name: filter, qos: sub.QoS}
	if sub.ID != 0 {
		run.ids = []uint32{sub.ID}
	}
	s.mu.Lock()
	idle := len(s.pending) == 0
	s.mu.Unlock()
	if idle && noted < maxNoted {
		// A client that subscribes faster than it reads gets the index looked up when its turn comes: a million
		// topics noted for each of its filters would be too much.
		h.retained.find(run)
		if len(run.msgs) == 0 {
			return nil
		}
	}
	return &Retained{run}
}

// maxNoted bounds what one SUBSCRIBE of many filters has noted at once, but for the last of them.
const maxNoted = 10_000

// Count is how many messages are noted.
func (r *Retained) Count() int {
	if r == nil {
		return 0
	}
	return len(r.run.msgs)
}

// SendRetained sends what FindRetained noted. It queues the messages; they are given as the target has room, in no order
// among topics, with the retain flag set.
func (h *Hub) SendRetained(clientID string, r *Retained) {
	s := h.session(clientID)
	if s == nil || r == nil {
		return
	}
	h.queueRetained(s, r.run)
}

func (h *Hub) queueRetained(s *session, run *retainedRun) {
	s.mu.Lock()
	s.pending = slices.DeleteFunc(s.pending, func(old *retainedRun) bool { return old.name == run.name })
	s.pending = append(s.pending, run)
	s.waiting.Store(true)
	s.mu.Unlock()
	h.schedule(s)
}

// OweRetained queues the retained messages of a stored subscription once more, as they are when their turn comes: some of
// them were not acknowledged when the node went down. Those of QoS 1, which may repeat; of QoS 2 only the session knows
// which it has begun.
func (h *Hub) OweRetained(clientID string, sub Sub) {
	s := h.session(clientID)
	group, filter, err := ParseFilter(sub.name())
	if s == nil || err != nil || group != "" || sub.QoS == 0 {
		return
	}
	run := &retainedRun{name: filter, qos: sub.QoS, again: true}
	if sub.ID != 0 {
		run.ids = []uint32{sub.ID}
	}
	h.queueRetained(s, run)
}

// Owes lists the filters of subscriptions whose retained messages are queued and may be of QoS 1 or 2. It may be called
// under the lock that Deliver takes: what is not listed any more was given before the call.
func (h *Hub) Owes(clientID string) (filters []string) {
	s := h.session(clientID)
	if s == nil || !s.waiting.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, run := range s.pending {
		if run.qos > 0 {
			filters = append(filters, run.name)
		}
	}
	return filters
}

// find looks the messages of a run up.
func (r *retainedStore) find(run *retainedRun) {
	if !run.found {
		run.msgs, run.found = r.collect(run.name), true
	}
}

// sendPending sends retained messages; false when the target has no room. catchUp must be held.
func (w *worker) sendPending(s *session) bool {
	for {
		s.mu.Lock()
		if len(s.pending) == 0 {
			if s.group == nil {
				s.waiting.Store(false)
			}
			s.mu.Unlock()
			return true
		}
		run := s.pending[0]
		s.mu.Unlock()
		if !w.sendRun(s, run) {
			return false
		}
		s.mu.Lock()
		if len(s.pending) > 0 && s.pending[0] == run {
			s.pending = append(s.pending[:0:0], s.pending[1:]...)
		}
		s.mu.Unlock()
	}
}

func (w *worker) sendRun(s *session, run *retainedRun) bool {
	w.h.retained.find(run)
	for {
		for len(run.loaded) > 0 {
			if !w.sendRetained(s, run, run.loaded[0]) {
				return false
			}
			run.loaded = run.loaded[1:]
		}
		for len(run.msgs) > 0 && run.msgs[0].value != nil {
			if !w.sendRetained(s, run, run.msgs[0]) {
				return false
			}
			run.msgs = run.msgs[1:]
		}
		if len(run.msgs) == 0 {
			return true
		}
		if err := w.h.retained.loadCold(run); err != nil {
			w.h.cfg.Logger.Warn("cannot read retained messages", "client", s.id, "filter", run.name, "err", err)
			return true
		}
	}
}

// loadCold reads values of messages that are not in memory, as many as fit r.coldBytes, in one pass
// over the table. What the table does not have any more is not sent.
func (r *retainedStore) loadCold(run *retainedRun) error {
	values := map[string][]byte{} // nil = wanted, none seen
	warm := run.msgs[:0:0]
	for _, m := range run.msgs {
		if m.value == nil {
			values[m.topic] = nil
		} else {
			warm = append(warm, m)
		}
	}
	later := map[string]bool{}
	bytes := 0
	err := r.table.Load(func(key, value []byte) error {
		old, wanted := values[string(key)]
		switch {
		case !wanted || later[string(key)]:
			return nil
		case old == nil && bytes >= r.coldBytes:
			later[string(key)] = true
			return nil
		}
		values[string(key)] = append([]byte(nil), value...)
		bytes += len(value) - len(old)
		return nil
	})
	if err != nil {
		return err
	}
	run.msgs = warm
	for topic, value := range values {
		switch {
		case later[topic]:
			run.msgs = append(run.msgs, &retainedMsg{topic: topic})
		case len(value) > 0:
			run.loaded = append(run.loaded, &retainedMsg{topic: topic, value: value})
		}
	}
	return nil
}

func (w *worker) sendRetained(s *session, run *retainedRun, msg *retainedMsg) bool {
	t := s.online()
	if t == nil {
		return false
	}
	if err := decodeRetained(&w.msg, msg.topic, msg.value, w.now); err != nil {
		w.h.cfg.Logger.Warn("retained message left out", "err", err)
		return true
	}
	if w.msg.expired() {
		w.h.counters.expired.Add(1)
		return true
	}
	qos := min(run.qos, w.msg.QoS)
	if run.again && qos != 1 {
		return true
	}
	w.msg.Filter = run.name
	seq := s.readySeq.Load()
	if !t.Deliver(&w.msg, qos, true, run.ids) {
		w.refused(s, seq)
		return false
	}
	w.delivered++
	return true
}
