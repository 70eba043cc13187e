package mqtt

import (
	"context"
	"slices"

	"github.com/weir-io/weir/mqtt/conn"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
)

// maxSubscriptions bounds the filters of one client.
const maxSubscriptions = 10_000

var (
	errSharedNoLocal = &packet.Error{Reason: packet.ProtocolError, Detail: "no local on a shared subscription"}
	errNoLonger      = &packet.Error{Reason: packet.NotAuthorized, Detail: "a rule took from the client what it subscribes to"}
	errNotRecorded   = &packet.Error{Reason: packet.ServerUnavailable, Detail: "the session's record could not be made durable"}
)

// errNotKnown ends a connection whose SUBSCRIBE wants retained messages that this node cannot learn of (M8: to try again).
var errNotKnown = &packet.Error{Reason: packet.ServerUnavailable, Detail: "what is retained on other nodes could not be learnt in time"}

// granted is one filter of a SUBSCRIBE that was accepted.
type granted struct {
	sub      deliver.Sub
	existed  bool
	retained *deliver.Retained
}

// subscribe handles a SUBSCRIBE aside from the workers, with the connection paused. SUBACK leaves once a
// durable session's record is committed; retained messages follow it, all those whose PUBLISH was acknowledged, by whatever
// node, before the filters were in force: later ones come as messages, and nothing falls in between.
func (cl *client) subscribe(c *conn.Conn, req *packet.Subscribe) {
	cl.attach(c, true)
	now := cl.srv.hub.Ends() // before the hub hears of the subscriptions
	codes := make([]packet.Reason, len(req.Filters))
	var accepted []granted
	retained := false
	for i := range req.Filters {
		in := &req.Filters[i]
		group, _, ok := packet.ParseFilter(in.Filter)
		if ok && group != "" && in.NoLocal {
			cl.end(c, errSharedNoLocal) // MQTT5 [MQTT-3.8.3-4]
			return
		}
		sub := deliver.Sub{
			Filter: in.Filter, QoS: in.QoS, NoLocal: in.NoLocal, RetainAsPublished: in.RetainAsPublished,
			RetainHandling: in.RetainHandling, ID: req.ID, Since: now,
		}
		r, existed := cl.grant(c, sub, ok)
		if codes[i] = r; r <= packet.GrantedQoS2 {
			retained = retained || group == "" && sub.RetainHandling != 2
			accepted = append(accepted, granted{sub: sub, existed: existed})
		}
	}
	if !retained {
		cl.subscribed(c, req, codes, accepted)
		return
	}
	ctx, cancel := context.WithTimeout(cl.srv.far.ctx, cl.srv.cfg.AckTimeout)
	cl.srv.hub.AwaitRetained(ctx, func(err error) {
		cancel()
		cl.srv.loop.Go(func() {
			if err != nil {
				cl.end(c, errNotKnown)
				return
			}
			cl.subscribed(c, req, codes, accepted)
		})
	})
}

// subscribed answers a SUBSCRIBE whose filters are in force.
func (cl *client) subscribed(c *conn.Conn, req *packet.Subscribe, codes []packet.Reason, accepted []granted) {
	noted := 0
	for i := range accepted {
		g := &accepted[i]
		g.retained = cl.srv.hub.FindRetained(cl.id, g.sub, g.existed, noted)
		noted += g.retained.Count()
	}
	cl.setOwed(accepted, true)
	cl.readCursor() // a crash right behind the SUBACK must not move the session's place
	cl.saveThen(func(err error) {
		cl.post(func(err error) error {
			if err != nil {
				return errNotRecorded
			}
			if cl.c == c {
				cl.s.Suback(req.PacketID, codes) // MQTT5 [MQTT-3.8.4-1]
				cl.srv.loop.Go(func() { cl.afterSubscribe(c, accepted) })
			}
			return nil
		}, err)
	})
}

// afterSubscribe sends what SUBACK had to precede, and lets the connection go on.
func (cl *client) afterSubscribe(c *conn.Conn, accepted []granted) {
	for i := range accepted {
		g := &accepted[i]
		if isSysFilter(g.sub.Filter) {
			cl.srv.sys.add(cl, &g.sub)
			continue
		}
		cl.srv.hub.SendRetained(cl.id, g.retained)
	}
	cl.setOwed(accepted, false)
	cl.withSession(c, func() { cl.link &^= subscribing })
	c.Resume()
}

// grant decides about one filter and enters it. // MQTT5 [MQTT-3.8.4-3] [MQTT-3.8.4-5] [MQTT-3.8.4-7]
func (cl *client) grant(c *conn.Conn, sub deliver.Sub, valid bool) (r packet.Reason, existed bool) {
	if !valid {
		return packet.TopicFilterInvalid, false
	}
	cl.mu.Lock()
	identity, current, n := cl.identity, cl.c == c, len(cl.subs)
	sub.Term = cl.term
	cl.mu.Unlock()
	if a := cl.srv.cfg.Auth; a != nil && !a.Allow(*identity, Subscribe, []byte(sub.Filter)) {
		cl.srv.stats.unauthorized.Add(1)
		return packet.NotAuthorized, false
	}
	if !current || n >= maxSubscriptions {
		return packet.QuotaExceeded, false
	}
	existed, err := cl.srv.hub.Subscribe(cl.id, sub)
	if err != nil {
		return packet.TopicFilterInvalid, false
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if !cl.durable {
		sub.Since = deliver.Cursor{} // nobody will read it
	}
	// Copied on change: a record being made may be looking at the old list.
	subs := slices.Clone(cl.subs)
	if i := slices.IndexFunc(subs, func(s deliver.Sub) bool { return s.Filter == sub.Filter }); i >= 0 {
		sub.Since = subs[i].Since // what was due stays due
		subs = slices.Delete(subs, i, i+1)
	}
	cl.subs = append(subs, sub)
	return packet.Reason(sub.QoS), existed
}

// dropForbidden takes subscriptions from a session that has come back which its client may not have any more: rules have changed. What was already on its way to it is sent.
func (cl *client) dropForbidden() {
	cl.mu.Lock()
	filters := cl.forbidden()
	if len(filters) > 0 {
		cl.subs = slices.DeleteFunc(slices.Clone(cl.subs), func(s deliver.Sub) bool { return slices.Contains(filters, s.Filter) })
	}
	cl.mu.Unlock()
	for _, f := range filters {
		cl.srv.hub.Unsubscribe(cl.id, f)
	}
}

// unsubscribe handles an UNSUBSCRIBE likewise. // MQTT5 [MQTT-3.10.4-1] [MQTT-3.10.4-6]
func (cl *client) unsubscribe(c *conn.Conn, req *packet.Unsubscribe) {
	codes := make([]packet.Reason, len(req.Filters))
	for i, filter := range req.Filters {
		if _, _, ok := packet.ParseFilter(filter); !ok {
			codes[i] = packet.TopicFilterInvalid
			continue
		}
		if !cl.srv.hub.Unsubscribe(cl.id, filter) {
			codes[i] = packet.NoSubscriptionExisted
		}
		cl.mu.Lock()
		cl.subs = slices.DeleteFunc(slices.Clone(cl.subs), func(s deliver.Sub) bool { return s.Filter == filter })
		cl.mu.Unlock()
	}
	cl.saveThen(func(err error) {
		cl.post(func(err error) error {
			if err != nil {
				return errNotRecorded
			}
			if cl.c == c {
				cl.s.Unsuback(req.PacketID, codes)
				cl.link &^= subscribing
				c.Resume()
			}
			return nil
		}, err)
	})
}

// end closes the connection with a reason, from outside its turn.
func (cl *client) end(c *conn.Conn, err error) {
	cl.withSession(c, func() { cl.fail(err) }) //nolint:errcheck // fail returns its argument
	c.Close(err)
}
