package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weir-io/weir/mqtt"
	"github.com/weir-io/weir/mqtt/deliver"
)

// sessionsTopic holds the MQTT sessions of a node.
const sessionsTopic = "__mqtt_sessions"

// sessionLoss is what retention took from a lasting MQTT session before its client came for it. The records are gone
// from the topic, so that no gap shows it; it is no fault of the log, and does not fail an audit.
type sessionLoss struct {
	Client    string `json:"client"`
	Partition int32  `json:"partition"`
	First     int64  `json:"first"` // half-open
	Next      int64  `json:"next"`
	Messages  int64  `json:"messages"` // at most so many were for the session
}

// sessionLosses reads the sessions for what they lost of a topic. A cluster without such sessions has none.
func sessionLosses(g *Globals, adm *kadm.Client, topic string) ([]sessionLoss, error) {
	all, err := adm.ListTopicsWithInternal(g.Ctx, topic, sessionsTopic)
	if err != nil {
		return nil, err
	}
	if d, ok := all[sessionsTopic]; !ok || d.Err != nil {
		return nil, nil
	}
	ext, err := extents(g, adm, position{kind: atBeginning}, sessionsTopic)
	if err != nil {
		return nil, err
	}
	id := all[topic].ID
	byClient := map[string][]sessionLoss{}
	err = readTopic(g, sessionsTopic, ext[sessionsTopic], nil, func(r *kgo.Record) error {
		losses, ok, err := mqtt.ReadLosses(r.Key, r.Value)
		if err != nil {
			return failf("%s/%d offset %d: %v", sessionsTopic, r.Partition, r.Offset, err)
		}
		if !ok {
			return nil
		}
		losses = slices.DeleteFunc(losses, func(l deliver.Loss) bool { return [16]byte(l.Partition.Topic) != [16]byte(id) })
		client := string(r.Key)
		if delete(byClient, client); len(losses) == 0 { // the newest record of a session counts
			return nil
		}
		if len(byClient) == auditDevices {
			return failf("more than %d sessions lost messages to retention", auditDevices)
		}
		for _, l := range losses {
			byClient[client] = append(byClient[client], sessionLoss{client, l.Partition.Index, int64(l.First), int64(l.Next), l.Messages})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := []sessionLoss{}
	for _, client := range sortedKeys(byClient) {
		rows := byClient[client]
		slices.SortFunc(rows, func(a, b sessionLoss) int { return cmp.Compare(a.Partition, b.Partition) })
		out = append(out, rows...)
	}
	return out, nil
}

// printLosses shows the first of them; --json has all.
func (rep *auditReport) printLosses(g *Globals) error {
	if len(rep.Sessions) == 0 {
		return nil
	}
	const shown = 50
	t := newTable("MQTT SESSION", "PARTITION", "FIRST", "NEXT", "LOST AT MOST")
	for _, s := range rep.Sessions[:min(len(rep.Sessions), shown)] {
		t.add(s.Client, s.Partition, s.First, s.Next, s.Messages)
	}
	fmt.Fprintln(g.Out, "taken by retention while the session was away or behind; lengthen the topic's retention.ms or retention.bytes:")
	if err := t.write(g.Out); err != nil {
		return err
	}
	if more := len(rep.Sessions) - shown; more > 0 {
		fmt.Fprintf(g.Out, "… %d more (--json has all)\n", more)
	}
	return nil
}
