package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/weir-io/weir/cluster"
)

// The cluster as a person reads it: `weir cluster status` and /debug/cluster print the same.

// shownAttention bounds the partitions that the text lists; --json has more.
const shownAttention = 20

func writeCluster(w io.Writer, s *cluster.ClusterStatus) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "cluster %s  generation %d  metadata version %d  controller %s\n", s.ClusterID, s.Generation, s.Version, nodeLabel(s, s.Controller))
	fmt.Fprintf(&b, "quorum: %s, %d reachable%s\n\n", plural(s.Quorum.Voters, "voter"), s.Quorum.Reachable, quorumWarning(s))
	if err := nodeTable(s).write(&b); err != nil {
		return err
	}
	for _, k := range s.Brokers {
		if k.Said != nil && k.Said.Fault != "" {
			fmt.Fprintf(&b, "node %d serves nothing: %s\n", k.ID, printable(k.Said.Fault))
		}
	}
	fmt.Fprintf(&b, "\npartitions: %s\n", partitionLine(s.Partitions))
	if len(s.Attention) > 0 {
		b.WriteByte('\n')
		if err := attentionTable(s).write(&b); err != nil {
			return err
		}
		if more := len(s.Attention) - shownAttention; more > 0 {
			fmt.Fprintf(&b, "… and %d more, see --json\n", more)
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// quorumWarning says what is at risk.
func quorumWarning(s *cluster.ClusterStatus) string {
	switch need := s.Quorum.Voters/2 + 1; {
	case s.Quorum.Reachable < need:
		return fmt.Sprintf(": NO MAJORITY, %d are needed: nothing can be changed and nobody takes over", need)
	case s.Quorum.Voters > 1 && s.Quorum.Reachable == need && s.Quorum.Reachable < s.Quorum.Voters:
		return ": none may fail now"
	}
	return ""
}

func nodeTable(s *cluster.ClusterStatus) *table {
	t := newTable("NODE", "NAME", "STATE", "ROLE", "ZONE", "LEADERS", "REPLICAS", "OUT-OF-SYNC", "LAG", "LEASE", "KAFKA", "MQTT", "PEER")
	for _, k := range s.Brokers {
		lag, lease := "-", "-"
		if k.Said != nil {
			lag, lease = fmt.Sprint(k.Said.LagRecords), "lapsed"
			if k.Said.LeaseHeld {
				if lease = "held"; k.Said.LeaseMS > 0 {
					lease = (time.Duration(k.Said.LeaseMS) * time.Millisecond).Round(100 * time.Millisecond).String()
				}
			}
		}
		state := k.State
		if k.Draining {
			state += ", draining"
		}
		t.add(k.ID, orDash(k.Name), state, roleOf(s, &k), orDash(k.Zone), k.Leaders, k.Replicas, k.OutOfSync, lag, lease,
			orDash(k.Kafka), orDash(k.MQTT), orDash(k.Peer))
	}
	return t
}

// roleOf is what a node does for the quorum and for data.
func roleOf(s *cluster.ClusterStatus, k *cluster.BrokerStatus) string {
	var roles []string
	if k.Witness {
		roles = append(roles, "witness")
	}
	switch {
	case k.ID == s.Controller:
		roles = append(roles, "controller")
	case k.Voter:
		roles = append(roles, "voter")
	}
	return orDash(strings.Join(roles, ", "))
}

func quorumTable(s *cluster.ClusterStatus) *table {
	t := newTable("NODE", "NAME", "VOTES", "LEADS", "REACHABLE", "APPLIED", "ADDRESS", "UUID")
	for _, m := range s.Quorum.Members {
		id, name := "-", "-"
		for _, b := range s.Brokers {
			if b.ID == m.Broker {
				id, name = fmt.Sprint(b.ID), orDash(b.Name)
			}
		}
		t.add(id, name, yes(m.Voter), yes(m.Leader), yes(m.Reachable), m.Applied, m.Address, m.UUID)
	}
	return t
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func partitionLine(c cluster.PartitionCounts) string {
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{
		{c.Leaderless, "without a leader"}, {c.SingleOffline, "of those with one replica by choice"},
		{c.UnderMinISR, "that take no records for want of in-sync replicas"}, {c.UnderReplicated, "under-replicated"}, {c.Moving, "moving"},
		{c.Unclean, "led uncleanly once"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) == 0 {
		return fmt.Sprintf("%d, each led and with all its replicas in sync", c.Total)
	}
	return fmt.Sprintf("%d: %s", c.Total, strings.Join(parts, ", "))
}

func attentionTable(s *cluster.ClusterStatus) *table {
	t := newTable("PARTITION", "LEADER", "REPLICAS", "ISR", "ADDING", "REMOVING", "STATE")
	for _, p := range s.Attention[:min(len(s.Attention), shownAttention)] {
		leader := "none"
		if p.Leader >= 0 {
			leader = fmt.Sprint(p.Leader)
		}
		t.add(fmt.Sprintf("%s/%d", p.Topic, p.Partition), leader, joinIDs(p.Replicas), orDash(joinIDs(p.ISR)), orDash(joinIDs(p.Adding)),
			orDash(joinIDs(p.Removing)), strings.Join(p.State, ", "))
	}
	return t
}

// clusterPage answers /debug/cluster with the text, and /api/v1/cluster with JSON.
func (s *httpServer) clusterPage(w http.ResponseWriter, r *http.Request) {
	status, err := s.node.broker.ClusterStatus(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		writeJSON(w, http.StatusOK, status)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_ = writeCluster(w, status) // the client went away: nobody is left to tell
}
