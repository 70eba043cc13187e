package main

import (
	"fmt"
)

func (v *verification) note(format string, args ...any) {
	v.notes = append(v.notes, fmt.Sprintf(format, args...))
}

// verifyReport is the result, and its JSON form.
type verifyReport struct {
	Uplink     string            `json:"uplink"`
	To         string            `json:"to"`
	Partitions []verifyPartition `json:"partitions"`
	Notes      []string          `json:"notes,omitempty"`
	Forgotten  bool              `json:"forgotten,omitempty"` // the target has no cursors any more, and had confirmed records
}

type verifyPartition struct {
	Topic      string   `json:"topic"`
	Partition  int32    `json:"partition"`
	Records    int64    `json:"records"` // here
	Arrived    int64    `json:"arrived"` // different ones there
	Older      int64    `json:"older"`   // of those, what is no longer here
	Waiting    int64    `json:"waiting"` // not confirmed yet
	Missing    ranges64 `json:"missing"`
	Duplicates ranges64 `json:"duplicates"`
	Differing  ranges64 `json:"differing"`
	Strange    ranges64 `json:"strange"` // there, and no committed ones here
	Reordered  int64    `json:"reordered"`
	Dead       int64    `json:"dead"`
	Gaps       int64    `json:"gaps"`     // announced at the target: deleted here before they were carried
	LeftOut    int64    `json:"left_out"` // records here that a rule has left out
	Filtered   int64    `json:"filtered"` // what the target was told of them, and of those that are no longer here
	Thinned    int64    `json:"thinned"`
	Full       int64    `json:"full"`        // of which the log gave up for room, and kept a later one of their key
	Averaged   int64    `json:"averaged"`    // of which one record stands for several
	Unsaid     int64    `json:"unaccounted"` // more than it was told, or without the record that stands for them
}

func (v *verification) report() *verifyReport {
	r := &verifyReport{Uplink: v.plan.Name, To: v.plan.To, Partitions: []verifyPartition{}, Notes: v.notes, Forgotten: v.forgotten}
	for _, at := range sortedOrigins(v.parts) {
		c := v.parts[at]
		r.Partitions = append(r.Partitions, verifyPartition{
			Topic: at.topic, Partition: at.partition, Records: c.records, Arrived: c.arrived, Older: c.older, Waiting: c.waiting, Missing: c.missing,
			Duplicates: c.duplicates, Differing: c.differing, Strange: c.strange, Reordered: c.reordered, Dead: c.dead, Gaps: v.gaps[at],
			LeftOut: c.rules.found, Filtered: c.rules.counts.Filtered, Thinned: c.rules.counts.Thinned, Averaged: c.rules.counts.Averaged, Full: c.rules.counts.Full, Unsaid: v.unaccounted(c),
		})
	}
	for _, p := range r.Partitions {
		if p.Full > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("%d records of %s, partition %d, were given up here for room, as the target was told, and a later one of each key and interval was kept", p.Full, p.Topic, p.Partition))
		}
	}
	for _, topic := range sortedKeys(v.foreign) {
		r.Notes = append(r.Notes, fmt.Sprintf("%d records of %s at the target are not of this cluster's topic", v.foreign[topic], topic))
	}
	return r
}
