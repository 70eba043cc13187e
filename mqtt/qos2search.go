package mqtt

import (
	"errors"
	"fmt"

	"github.com/weir-io/weir/log"
	"github.com/weir-io/weir/mqtt/deliver"
	"github.com/weir-io/weir/mqtt/packet"
	"github.com/weir-io/weir/mqtt/session"
)

// resolve finds out, aside, whether the record of an intent exists, and appends it if it does not: with the
// same token to the same partition, whatever the routes say now (M4).
func (cl *client) resolve(in *intent, p *packet.Publish) session.Verdict {
	at, v := cl.srv.prepare(cl.sc, cl.identity, cl.id, p, []byte(in.token), false)
	if v != (session.Verdict{}) {
		cl.note(v)
		return v
	}
	if !in.hold(cl.srv, &cl.sc.rec, !cl.q2.holds()) {
		cl.note(held)
		return held
	}
	cl.q2.enqueue(in)
	in.since, in.unknown = cl.sc.now, false
	if p.Retain && !at.dead {
		in.pub = &retainedPart{clonePublish(p), at.expiry}
	}
	cl.srv.loop.Go(func() {
		part, found, err := cl.srv.findToken(in)
		cl.post(func(err error) error {
			switch {
			case cl.intent(in.seq) != in:
				return nil
			case err != nil:
				return cl.outcomeUnknown(in, packet.ServerUnavailable)
			case found:
				in.drop(cl.srv)
				cl.appendPending()
				return cl.s.Stored(in.seq, packet.Success, cl.srv.millis())
			}
			in.part = part
			cl.appendInTurn(in)
			return nil
		}, err)
	})
	return session.Verdict{}
}

// findToken reads the intent's partition from the intent's log end on, as far as it went when the search began. A topic that is gone took the record
// with it: then the record goes nowhere and the exchange counts as done.
func (s *Server) findToken(in *intent) (part Partition, found bool, err error) {
	parts, err := s.cfg.Sink.Topic(in.topic)
	if err != nil {
		return nil, false, err
	}
	if int(in.index) >= len(parts) {
		return nil, false, fmt.Errorf("topic %s has no partition %d any more", in.topic, in.index)
	}
	part = parts[in.index]
	end, err := part.Settle()
	if err != nil {
		return part, false, err
	}
	var rd log.RecordReader
	var buf []byte
	for from := in.logEnd; from < end; {
		if buf, err = part.Read(from, 1<<20, buf); err != nil {
			if errors.Is(err, log.ErrOutOfRange) { // retention has passed the intent: what it wrote is gone or was never there
				return part, false, nil
			}
			return part, false, err
		}
		if len(buf) == 0 {
			return part, false, nil
		}
		if from, found, err = scanToken(&rd, buf, []byte(in.token)); found || err != nil {
			return part, found, err
		}
	}
	return part, false, nil
}

func scanToken(rd *log.RecordReader, b []byte, token []byte) (next log.Offset, found bool, err error) {
	for len(b) > 0 {
		batch, err := log.NextBatch(b, len(b))
		if err != nil {
			return 0, false, err
		}
		if err := rd.Reset(batch); err != nil {
			return 0, false, err
		}
		var rec log.Record
		for {
			more, err := rd.Next(&rec)
			if err != nil {
				return 0, false, err
			}
			if !more {
				break
			}
			for i := range rec.Headers {
				h := &rec.Headers[i]
				if string(h.Key) == deliver.HeaderQoS {
					break // user properties follow
				}
				if string(h.Key) == deliver.HeaderQoS2 && string(h.Value) == string(token) {
					return 0, true, nil
				}
			}
		}
		next = batch.NextOffset()
		b = b[batch.Size():]
	}
	return next, false, nil
}
