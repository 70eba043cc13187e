package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// position is a place in a topic as people name it: --from and --to.
//
//	beginning, end   the log's bounds
//	1234             an offset, the same in every partition
//	-100             100 records before the end of every partition
//	-15m             so long ago
//	2026-11-21T08:00:00Z, 2026-11-21 08:00:00, 2026-11-21   a time; local unless it says otherwise
type position struct {
	kind   positionKind
	offset int64     // atOffset, beforeEnd
	time   time.Time // atTime
}

type positionKind uint8

const (
	atBeginning positionKind = iota
	atEnd
	atOffset
	beforeEnd
	atTime
)

func parsePosition(flag, s string, now time.Time) (position, error) {
	switch s {
	case "beginning":
		return position{kind: atBeginning}, nil
	case "end":
		return position{kind: atEnd}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		if n < 0 {
			return position{kind: beforeEnd, offset: -n}, nil
		}
		return position{kind: atOffset, offset: n}, nil
	}
	if d, err := time.ParseDuration(strings.TrimPrefix(s, "-")); err == nil && strings.HasPrefix(s, "-") {
		return position{kind: atTime, time: now.Add(-d)}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return position{kind: atTime, time: t}, nil
		}
	}
	return position{}, usagef("%s %s: want beginning, end, an offset, a time (2006-01-02T15:04:05Z), or so long ago (%s=-15m)", flag, s, flag)
}

// extent is what a partition holds now and where a position falls in it: start <= at <= end.
type extent struct{ start, at, end int64 }

// extents resolves a position in every partition of the given topics. An unknown topic is an error.
func extents(g *Globals, adm *kadm.Client, pos position, topics ...string) (map[string]map[int32]extent, error) {
	starts, err := adm.ListStartOffsets(g.Ctx, topics...)
	if err != nil {
		return nil, err
	}
	ends, err := adm.ListEndOffsets(g.Ctx, topics...)
	if err != nil {
		return nil, err
	}
	var times kadm.ListedOffsets
	if pos.kind == atTime {
		if times, err = adm.ListOffsetsAfterMilli(g.Ctx, pos.time.UnixMilli(), topics...); err != nil {
			return nil, err
		}
	}
	out := make(map[string]map[int32]extent)
	for _, topic := range topics {
		if len(ends[topic]) == 0 {
			return nil, fmt.Errorf("topic %s: %w", topic, kerr.UnknownTopicOrPartition)
		}
		out[topic] = make(map[int32]extent)
		for p, end := range ends[topic] {
			start, ok := starts.Lookup(topic, p)
			if !ok {
				start.Err = kerr.UnknownTopicOrPartition
			}
			at := end
			if pos.kind == atTime {
				at = times[topic][p]
			}
			for _, o := range []kadm.ListedOffset{start, end, at} {
				if o.Err != nil && p < 0 { // kadm's way to say that it is the topic's error
					return nil, fmt.Errorf("topic %s: %w", topic, o.Err)
				}
				if o.Err != nil {
					return nil, fmt.Errorf("topic %s partition %d: %w", topic, p, o.Err)
				}
			}
			e := extent{start: start.Offset, end: end.Offset}
			switch pos.kind {
			case atBeginning:
				e.at = e.start
			case atEnd:
				e.at = e.end
			case atOffset:
				e.at = pos.offset
			case beforeEnd:
				e.at = e.end - pos.offset
			case atTime:
				if e.at = at.Offset; e.at < 0 { // no record so late
					e.at = e.end
				}
			}
			e.at = max(e.start, min(e.at, e.end))
			out[topic][p] = e
		}
	}
	return out, nil
}

func sortedKeys[K int32 | int64 | string, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
