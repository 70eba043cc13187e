package uplink

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weir-io/weir/log"
)

// What a forwarder knows of its partitions, what it stores, and when it waits.

// CursorKey is the key under which the Store keeps a cursor.
func CursorKey(uplink string, id log.PartitionID) []byte {
	return []byte("cursor/" + uplink + "/" + partitionKey(id))
}

// ErrNoCursor: a key of the Store that is not one of a cursor.
var ErrNoCursor = errors.New("not a cursor")

// ParseCursor reads an entry of the Store: from which offset on the uplink wants a partition kept. A nil value is a cursor that was removed.
func ParseCursor(key, value []byte) (uplink string, id log.PartitionID, next log.Offset, err error) {
	rest, is := strings.CutPrefix(string(key), "cursor/")
	uplink, rest, cut := strings.Cut(rest, "/")
	if !is || !cut {
		return "", id, 0, ErrNoCursor
	}
	if id, err = parsePartitionKey(rest); err != nil || value == nil {
		return uplink, id, 0, err
	}
	p, err := parseProgress(value)
	return uplink, id, p.Next, err
}

// spentKey is where the shard keeps what it has sent today.
func (f *Forwarder) spentKey() []byte { return fmt.Appendf(nil, "spent/%s/%d", f.Config.Name, f.Shard) }

type spent struct {
	Day   string           `json:"day"`
	Bytes int64            `json:"bytes"`
	Links map[string]int64 `json:"links,omitempty"` // by class, where there are some
}

// takeSpent takes what was stored. Under mu.
func (f *Forwarder) takeSpent(s spent) {
	for i := range f.budgets {
		bytes := s.Bytes
		if len(f.Config.Links) > 0 {
			bytes = s.Links[f.Config.Links[i].Name]
		}
		f.budgets[i].day, f.budgets[i].spent = s.Day, bytes
	}
}

// spentNow is what is to be stored; false when nobody asks. Under mu.
func (f *Forwarder) spentNow(now time.Time) (s spent, is bool) {
	s.Day = dayOf(now)
	for i := range f.budgets {
		b := &f.budgets[i]
		is = is || b.limits.Daily > 0
		b.fill(now)
		if len(f.Config.Links) == 0 {
			s.Bytes = b.spent
			continue
		}
		if s.Links == nil {
			s.Links = map[string]int64{}
		}
		s.Links[f.Config.Links[i].Name] = b.spent
	}
	return s, is
}

// restore takes one entry of the Store. Partitions are made of it before the log tells of them.
func (f *Forwarder) restore(key, value []byte) error {
	if bytes.Equal(key, f.spentKey()) {
		var s spent
		if err := json.Unmarshal(value, &s); err != nil {
			return fmt.Errorf("what was sent today: %w", err)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.takeSpent(s)
		return nil
	}
	if bytes.Equal(key, f.producersKey()) {
		return f.takeProducers(value)
	}
	for _, d := range f.downs {
		if err := d.restore(key, value); err != nil {
			return err
		}
	}
	rest, mine := bytes.CutPrefix(key, []byte("cursor/"+f.Config.Name+"/"))
	if !mine {
		return nil
	}
	id, err := parsePartitionKey(string(rest))
	if err != nil || f.Config.ShardOf(id) != f.Shard {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if value == nil {
		delete(f.parts, id)
		return nil
	}
	p, err := parseProgress(value)
	if err != nil {
		return err
	}
	f.parts[id] = &part{f: f, cursor: p.Cursor, left: p.Left, fresh: p.At == 0, saved: true, stop: func() {}}
	return nil
}

// added is called by the Source. A partition that has no cursor is carried from where its log begins, which is stored before anything can be lost of it.
func (f *Forwarder) added(l Log) {
	f.mu.Lock()
	defer f.mu.Unlock()
	topic := l.Topic()
	f.topics[topic] = max(f.topics[topic], int(l.Index())+1)
	if !f.Config.Carries(topic) || f.Config.ShardOf(l.ID()) != f.Shard {
		return
	}
	p := f.parts[l.ID()]
	if p == nil {
		p = &part{f: f, fresh: true, unsure: true}
		f.parts[l.ID()] = p
	}
	if p.log, p.lane = l, f.Config.laneOf(topic); p.lane.index >= 0 {
		p.rule = f.rules[p.lane.index]
	}
	p.remote = strings.NewReplacer("{topic}", topic, "{site}", f.Site, "{cluster}", f.Cluster).Replace(f.Config.Rename)
	p.downward = slices.ContainsFunc(f.Config.Down, func(d Down) bool { return d.Topic == topic })
	p.settle()
	p.stop = l.Watch(f.poke)
	f.poke()
}

// settle has a new cursor begin where the log does, once that is known: what was deleted before is no gap (U5). Under mu.
func (p *part) settle() {
	if p.unsure && p.log.HighWatermark() > 0 {
		p.unsure, p.cursor.Next = false, p.log.LogStart()
	}
}

// removed is called by the Source: the topic is gone, and its cursor is of no use to anybody.
func (f *Forwarder) removed(id log.PartitionID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.parts[id]; p != nil {
		p.stop()
		delete(f.parts, id)
		f.Store.Put(CursorKey(f.Config.Name, id), nil, func(error) {})
	}
}

// poke has Run look again.
func (f *Forwarder) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// views lists what can be carried now. What could not be for a while has a backlog then, and what is new goes before it.
func (f *Forwarder) views() (parts []*part, views []view, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now, most := time.Now(), f.Config.maxPriority(f.link)
	for id, p := range f.parts {
		if p.log == nil || now.Before(p.until) {
			delete(f.live, id)
			continue
		}
		if p.settle(); p.unsure {
			continue // there is nothing to carry
		}
		if !p.taken {
			if err := f.take(id, p); err != nil {
				return nil, nil, err
			}
		}
		if p.lane.priority > most {
			delete(f.live, id)
			continue
		}
		v := view{lane: p.lane, cursor: p.cursor, start: 0, end: p.log.HighWatermark()}
		if len(p.dead) > 0 { // they are not to be sent; the Store learns of them with the target
			v.cursor = p.with(p.dead)
		}
		if f.rest != nil && len(f.rest.moved[p]) > 0 {
			v.cursor = p.with(p.dead, f.rest.moved[p])
		}
		if v.liveFirst {
			v.start = p.log.LogStart()
			live, ok := f.live[id]
			if !ok {
				live = v.goLive()
				f.live[id] = live
			}
			v.live, v.start = live, 0 // what was deleted is a gap to be told, not to be left out
		}
		parts, views = append(parts, p), append(views, v)
	}
	return parts, views, nil
}

// carried lists the partitions of the shard as far as a target is concerned.
func (f *Forwarder) carried() (all []carriedPart) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, p := range f.parts {
		c := carriedPart{id: id, remote: p.remote}
		if p.log != nil {
			c.topic = p.log.Topic()
		}
		if !p.fresh && !p.tell { // else nobody has confirmed the cursor
			c.confirmed = p.cursor.clone()
		}
		all = append(all, c)
	}
	return all
}

// with is the partition's cursor with spans confirmed.
func (p *part) with(spans ...[]Span) Cursor {
	c := p.cursor.clone()
	for _, s := range slices.Concat(spans...) {
		c.Confirm(s)
	}
	return c
}

// owes says whether the target is to be told of the cursor though nothing is sent.
func (p *part) owes() bool { return p.taken && (len(p.dead) > 0 || p.tell) }

// owes says it of any.
func (f *Forwarder) owes() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.parts {
		if p.owes() {
			return true
		}
	}
	return false
}

// block leaves a partition out for a while.
func (f *Forwarder) block(p *part, until time.Time, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p.until, p.why = until, why
	f.Logger.Warn("an uplink leaves a partition out for a while", "error", why, "until", until)
}

// save writes the cursors that have moved here, at most every saveEvery but at the end, when it waits for them.
func (f *Forwarder) save(last bool) {
	f.mu.Lock()
	now := time.Now()
	if !last && now.Sub(f.state.savedAt) < saveEvery {
		f.mu.Unlock()
		return
	}
	f.state.savedAt = now
	puts, of := map[string][]byte{}, map[string]*part{}
	for id, p := range f.parts {
		if p.log == nil {
			continue
		}
		if p.settle(); !p.saved && !p.unsure {
			of[string(CursorKey(f.Config.Name, id))] = p
			puts[string(CursorKey(f.Config.Name, id))] = progress{Topic: p.log.Topic(), Partition: id.Index, Cursor: p.cursor, At: p.confirmedAt(now), Left: p.left}.encode()
			p.saved = true
		}
	}
	if spent, is := f.spentNow(now); is {
		if text, err := json.Marshal(spent); err == nil && string(text) != f.spentStored {
			puts[string(f.spentKey())], f.spentStored = text, string(text)
		}
	}
	if text := f.producersNow(); text != f.producers {
		puts[string(f.producersKey())], f.producers = []byte(text), text
	}
	f.mu.Unlock()
	done := make(chan error, len(puts))
	for k, v := range puts {
		f.Store.Put([]byte(k), v, func(err error) {
			if err != nil {
				f.mu.Lock()
				if p := of[k]; p != nil {
					p.saved = false
				} else {
					f.spentStored, f.producers = "", ""
				}
				f.mu.Unlock()
			}
			done <- err
		})
	}
	if !last {
		return
	}
	limit := time.After(saveWait)
	for range puts {
		select {
		case <-done:
		case <-limit:
			return // the target knows, or the next owner sends a second's worth again
		}
	}
}

// confirmedAt is what a stored cursor says about when the target had confirmed it: 0 while it has confirmed nothing.
func (p *part) confirmedAt(now time.Time) int64 {
	if p.fresh {
		return 0
	}
	return now.UnixMilli()
}

// Pause stops the carrying, or lets it go on: at once, whatever it was waiting for after a failure.
func (f *Forwarder) Pause(paused bool) {
	f.mu.Lock()
	f.paused = paused
	for _, p := range f.parts {
		if !paused {
			p.until = time.Time{}
		}
	}
	f.mu.Unlock()
	f.poke()
	if !paused {
		f.hurry()
	}
}

// hurry has Run try again at once.
func (f *Forwarder) hurry() {
	select {
	case f.again <- struct{}{}:
	default:
	}
}

// Accept is an operator's word about what the target has forgotten (U5): "target" has it sent again from where the target is, "here" leaves it out. It is for now: said
// while the target is reached, it would be taken for an answer to what the target forgets some day.
func (f *Forwarder) Accept(from string) error {
	if from != acceptTarget && from != acceptHere {
		return fmt.Errorf("%q is neither %q nor %q", from, acceptTarget, acceptHere)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state.up {
		return fmt.Errorf("the uplink %s has not stopped", f.Config.Name)
	}
	f.accept = from
	f.hurry()
	return nil
}

// waitPaused returns when the uplink is not paused and there is a link that it may use; false when ctx has ended.
func (f *Forwarder) waitPaused(ctx context.Context) bool {
	for ctx.Err() == nil {
		f.useLink()
		if !f.isPaused() {
			return true
		}
		f.idle(ctx)
	}
	return false
}

// mayGo waits as long as the uplink is paused or the link may not be used; it returns early when something has changed.
func (f *Forwarder) mayGo(ctx context.Context) bool {
	if !f.waitPaused(ctx) {
		return false
	}
	now := time.Now()
	f.mu.Lock()
	d, why := f.budget.wait(now)
	f.state.waits, f.state.until = why, now.Add(d)
	f.mu.Unlock()
	if d == 0 {
		return true
	}
	f.save(false) // it may be long
	f.sleep(ctx, min(d, time.Second))
	return false
}

// idle waits until there is something to look at; once a second it looks by itself, for what was left out for a while.
func (f *Forwarder) idle(ctx context.Context) {
	timer := time.NewTimer(saveEvery)
	defer timer.Stop()
	select {
	case <-f.wake:
	case <-timer.C:
		f.save(false)
	case <-ctx.Done():
	}
}

func (f *Forwarder) sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// charge notes what went over the wire since it was called last.
func (f *Forwarder) charge(t target, counted *int64) {
	now := t.wire()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.budget.charge(time.Now(), now-*counted)
	f.state.wire += now - *counted
	*counted = now
}
