package kafka

import (
	"errors"
	"time"

	"github.com/weir-io/weir/log"
)

// decode reads the request.
//
//	v4–14: int32 replica | int32 max wait ms | int32 min bytes | int32 max bytes | int8 isolation |
//	v7: int32 session, int32 session epoch | array of (topic | array of partitions) |
//	v7: array of forgotten (topic | array of int32) | v11: string rack
//
// A topic is a string, or from v13 on an id of 16 bytes. Our replicas use another protocol: what
// is only theirs is passed over.
func (f *fetch) decode(body []byte) error {
	d := decoder{b: body}
	flexible := f.version >= fetchFlexible
	if f.version < 15 {
		d.int32()
	}
	f.maxWait = time.Duration(d.int32()) * time.Millisecond
	f.minBytes = int(d.int32())
	f.maxBytes = int(d.int32())
	f.committed = d.int8() == 1
	if f.version >= 7 {
		f.sessionID, f.sessionEpoch = d.int32(), d.int32()
	}
	for range d.array(flexible, 2) {
		t := f.decodeTopic(&d)
		t.parts = d.array(flexible, 16)
		for range t.parts {
			f.parts = append(f.parts, f.decodePart(&d))
			if d.bad {
				break
			}
		}
		if flexible {
			d.tags()
		}
		if d.bad {
			break
		}
		f.topics = append(f.topics, t)
	}
	if f.version >= 7 {
		f.forgotten = d
		f.eachForgotten(&d, nil)
	}
	if f.version >= 11 {
		f.rack = d.string(flexible)
	}
	if flexible {
		d.tags()
	}
	if d.bad {
		return errors.New("fetch request ends early")
	}
	return nil
}

func (f *fetch) byTopicID() bool { return f.version >= fetchTopicIDs }

func (f *fetch) decodeTopic(d *decoder) (t fetchTopic) {
	if f.byTopicID() {
		copy(t.id[:], d.take(len(t.id)))
	} else {
		t.name = d.string(f.version >= fetchFlexible)
	}
	return t
}

// eachForgotten reads the forgotten topics, and calls fn, if there is one, for each partition.
func (f *fetch) eachForgotten(d *decoder, fn func(t fetchTopic, index int32)) {
	flexible := f.version >= fetchFlexible
	for range d.array(flexible, 2) {
		t := f.decodeTopic(d)
		for range d.array(flexible, 4) {
			if index := d.int32(); fn != nil {
				fn(t, index)
			}
		}
		if flexible {
			d.tags()
		}
		if d.bad {
			return
		}
	}
}

// int32 index | v9: int32 leader epoch | int64 offset | v12: int32 last epoch |
// v5: int64 log start (of followers) | int32 max bytes
func (f *fetch) decodePart(d *decoder) fetchPart {
	p := fetchPart{index: d.int32(), preferred: noReplica, partAsk: partAsk{epoch: -1}}
	if f.version >= 9 {
		p.epoch = d.int32()
	}
	p.offset = log.Offset(d.int64())
	if f.version >= 12 {
		d.int32()
	}
	if f.version >= 5 {
		d.int64()
	}
	p.maxBytes = d.int32()
	if f.version >= fetchFlexible {
		d.tags()
	}
	return p
}
