package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/weir-io/weir/bridge/kafka"
	"github.com/weir-io/weir/cluster"
)

// demoView is the cluster at one moment, as its nodes say.
type demoView struct {
	status *cluster.ClusterStatus // nil: no node answers
}

// viewWithin bounds the questions for one view. A node waits a second for others that do not answer it.
const viewWithin = 2 * time.Second

// look asks all nodes that run, at once. Of their views of the cluster it takes that with the newest metadata: a node
// that is cut off or has just been started is behind.
func (s *demoSite) look(ctx context.Context) *demoView {
	ctx, cancel := context.WithTimeout(ctx, viewWithin)
	defer cancel()
	v := &demoView{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, n := range s.nodes {
		if state, _ := n.now(); state != demoRunning {
			continue
		}
		asking.Go(func() {
			status, err := statusOf(ctx, n.listen.kafka)
			if err != nil {
				return // it has just died, or is about to: the board says so
			}
			mu.Lock()
			defer mu.Unlock()
			if v.status == nil || newer(status, v.status) {
				v.status = status
			}
		})
	}
	asking.Wait()
	return v
}

// newer prefers a view that knows the controller.
func newer(a, b *cluster.ClusterStatus) bool {
	if (a.Controller != 0) != (b.Controller != 0) {
		return a.Controller != 0
	}
	return a.Version > b.Version
}

// statusOf is what one node says of the cluster.
func statusOf(ctx context.Context, bootstrap string) (*cluster.ClusterStatus, error) {
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", bootstrap)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	text, err := kafka.CallOperate(nc, opStatus, []byte("{}"))
	if err != nil {
		return nil, err
	}
	s := &cluster.ClusterStatus{}
	return s, json.Unmarshal(text, s)
}

// broker is the node's entry in the view, nil if the cluster does not know it (yet).
func (v *demoView) broker(name string) *cluster.BrokerStatus {
	if v.status == nil {
		return nil
	}
	for i := range v.status.Brokers {
		if b := &v.status.Brokers[i]; b.Name == name {
			return b
		}
	}
	return nil
}

// demoReplicas is what topics grow to that were made without a number of replicas. // C7
const demoReplicas = 3

// whole reports whether all is well: from then on any one node may die.
func (v *demoView) whole() bool {
	if v.status == nil || v.status.Controller == 0 || v.status.Quorum.Reachable < v.status.Quorum.Voters {
		return false
	}
	for _, b := range v.status.Brokers {
		if b.State != cluster.StateRunning || b.OutOfSync > 0 {
			return false
		}
	}
	return true
}

// replicas are those of all partitions together; the view must have a status.
func (v *demoView) replicas() (n int) {
	for _, b := range v.status.Brokers {
		n += b.Replicas
	}
	return n
}

// write draws the nodes and what is wrong with the cluster, if anything is.
func (v *demoView) write(b *strings.Builder, s *demoSite) {
	t := newTable("NODE", "ID", "PID", "STATE", "ROLE", "LEADERS", "IN-SYNC", "DEVICES", "MQTT", "KAFKA", "HTTP")
	for _, n := range s.nodes {
		state, pid := n.now()
		id, process, role, leaders, inSync := "-", "-", "-", "-", "-"
		if pid != 0 {
			process = fmt.Sprint(pid)
		}
		if k := v.broker(n.name); k != nil {
			id, role, leaders = fmt.Sprint(k.ID), roleOf(v.status, k), fmt.Sprint(k.Leaders)
			inSync = fmt.Sprintf("%d of %d", k.Replicas-k.OutOfSync, k.Replicas)
			switch {
			case state != demoRunning: // the cluster takes a moment to notice
			case k.State == cluster.StateGone: // its process is there
				state = cluster.StateSilent
			default:
				state = k.State
			}
		}
		t.add(n.name, id, process, state, role, leaders, inSync, n.devices.Load(), n.listen.mqtt, n.listen.kafka, n.listen.http)
	}
	_ = t.write(b) // a Builder takes every write
	if v.status == nil {
		b.WriteString("no node answers\n")
		return
	}
	fmt.Fprintf(b, "quorum: %s, %d reachable%s\npartitions: %s\n", plural(v.status.Quorum.Voters, "voter"), v.status.Quorum.Reachable,
		quorumWarning(v.status), partitionLine(v.status.Partitions))
}
