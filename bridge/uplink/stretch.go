package uplink

import (
	"bytes"
	"maps"
	"math"
	"slices"

	"github.com/weir-io/weir/internal/payload"
	"github.com/weir-io/weir/log"
)

// FieldsHeader of a carried record names the members of its payload that it was reduced to, separated by commas; AveragedHeader is how many records one stands for, all of
// one key. The origin of such a one names the first and the last of them: <cluster>/<topic>/<partition>/<first>-<last>.
const (
	FieldsHeader   = "weir.fields"
	AveragedHeader = "weir.averaged"
)

// stretch is what of one partition is thinned together: old records in the order of the log, until one commit has enough. What it does not decide at once is held: no more
// than the commit's room. It is pure.
type stretch struct {
	thin    *Thin
	entries []entry
	groups  map[groupKey]*group
	figures int // of all groups
}

// entry is one record: one of a group, one that goes as it is, or else one that is left out, or several.
type entry struct {
	at    log.Offset
	group *group
	alone *outgoing
	to    log.Offset
	why   reason
}

// groupKey: one key's records of one interval. Payloads of two formats do not mix.
type groupKey struct {
	key      string
	interval int64
	format   payload.Format
}

type group struct {
	first   log.Offset
	count   int64
	last    *outgoing
	format  payload.Format
	figures map[string]*figure // of mean_over
	named   int                // bytes of their names, least and greatest
}

// figure is what of one member of payloads is known.
type figure struct {
	count          int64
	sum            float64
	least, most    float64
	leastIs, mostI []byte // as they stand in their payloads
	mixed          bool   // somewhere it is no number, or they add up to none
}

const (
	maxStretch = 1 << 16 // records
	maxFigures = 1 << 15 // of all groups of a stretch
	maxMembers = 256     // of a payload that is put together with others
)

// full says that the stretch is to be ended.
func (s *stretch) full() bool {
	return len(s.entries) >= maxStretch || len(s.groups) >= maxRecords || s.figures >= maxFigures
}

// skip notes records that are left out for another reason.
func (s *stretch) skip(all Span, why reason) {
	s.entries = append(s.entries, entry{at: all.From, to: all.To, why: why})
}

// hold keeps a record that goes as it is, behind those that were before it.
func (s *stretch) hold(r *outgoing) {
	s.entries = append(s.entries, entry{at: r.Offset, alone: r.clone()})
}

// join puts an old record to those of its key and interval; more is by how much what is sent of them has grown, or shrunk. An error says why it cannot be one of several.
func (s *stretch) join(r *outgoing) (more int, err error) {
	k := groupKey{key: string(r.Key), interval: floorDiv(r.Timestamp, s.thin.interval().Milliseconds())}
	var members map[string][]byte
	if s.thin.MeanOver > 0 {
		if k.format, members, err = payload.Members(r.Value); err != nil {
			return 0, err
		}
		if len(members) > maxMembers {
			return 0, payload.ErrPayload
		}
	}
	g := s.groups[k]
	if g == nil {
		more = perRecord
		if s.groups == nil {
			s.groups = map[groupKey]*group{}
		}
		g = &group{first: r.Offset, format: k.format, figures: map[string]*figure{}}
		s.groups[k] = g
	}
	more -= g.size()
	g.count++
	g.last = r.clone()
	for name, raw := range members {
		f := g.figures[name]
		if f == nil {
			f = &figure{}
			g.figures[name] = f
			g.named += len(name)
			s.figures++
		}
		g.named -= len(f.leastIs) + len(f.mostI)
		f.add(k.format, raw)
		g.named += len(f.leastIs) + len(f.mostI)
	}
	s.entries = append(s.entries, entry{at: r.Offset, group: g})
	return more + g.size(), nil
}

// figureRoom is what a number becomes beside its name, least and greatest: {"mean":…,"min":…,"max":…}, with the mean's digits.
const figureRoom = 64

// size is what is sent of a group counts for at the most.
func (g *group) size() (n int) {
	if g.last != nil {
		n = g.last.size()
	}
	if g.count > 1 {
		n += g.named + len(g.figures)*figureRoom
	}
	return n
}

func (f *figure) add(format payload.Format, raw []byte) {
	n, ok := payload.Number(format, raw)
	if !ok {
		f.mixed = true
		return
	}
	f.count++
	if f.sum += n; math.IsInf(f.sum, 0) {
		f.mixed = true
		return
	}
	if f.count == 1 || n < f.least {
		f.least, f.leastIs = n, bytes.Clone(raw)
	}
	if f.count == 1 || n > f.most {
		f.most, f.mostI = n, bytes.Clone(raw)
	}
}

// end gives every record of the stretch in the order of the log: those to be carried, and of the others why not. A record that stands for several comes behind the last of them.
func (s *stretch) end(fields []string, left func(Span, reason), carry func(*outgoing) error) error {
	for _, e := range s.entries {
		g, one := e.group, Span{e.at, e.at + 1}
		switch {
		case e.alone != nil:
			if err := carry(e.alone); err != nil {
				return err
			}
		case g == nil:
			left(Span{e.at, e.to}, e.why)
		case g.count == 1, s.thin.MeanOver == 0 && g.last.Offset == e.at:
			if err := carry(g.last); err != nil {
				return err
			}
		case s.thin.MeanOver == 0:
			left(one, thinned)
		default:
			left(one, averaged)
			if g.last.Offset == e.at {
				if err := carry(g.average(fields)); err != nil {
					return err
				}
			}
		}
	}
	s.entries, s.figures = s.entries[:0], 0
	clear(s.groups)
	return nil
}

// average is the record that stands for a group: the last of it, but that every number became its mean, least and greatest. What is a number in some of them only is as the last
// has it.
func (g *group) average(fields []string) *outgoing {
	_, members, err := payload.Members(g.last.Value)
	if err != nil {
		panic("BUG: a payload that was read cannot be read: " + err.Error())
	}
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(g.figures)), func(name string) bool {
		_, there := members[name]
		return !there && g.figures[name].mixed || len(fields) > 0 && !slices.Contains(fields, name)
	})
	var o payload.Object
	o.Begin(g.format, len(names))
	for _, name := range names {
		o.Name(name)
		f := g.figures[name]
		if f.mixed {
			o.Raw(members[name])
			continue
		}
		o.Begin(g.format, 3)
		o.Name("mean")
		o.Float(f.sum / float64(f.count))
		o.Name("min")
		o.Raw(f.leastIs)
		o.Name("max")
		o.Raw(f.mostI)
		o.End()
	}
	o.End()
	r := *g.last
	r.Value, r.first, r.count = o.Bytes(), g.first, g.count
	return &r
}

// floorDiv is the interval that a time lies in.
func floorDiv(t, by int64) int64 {
	if t < 0 {
		return -1 - (-1-t)/by
	}
	return t / by
}
