package gossip

import (
	"fmt"
	"strconv"
	"strings"
)

// Role is what a node does for the cluster.
type Role string

// Roles.
const (
	RoleNode    Role = "node"    // keeps data, and may vote on metadata
	RoleWitness Role = "witness" // votes, and keeps no data
)

// Tags are what a node says of itself.
type Tags struct {
	Cluster string // cluster id, "" while it is in none (C3)
	Name    string // the operator's name for it
	Peer    string // host:port for other nodes: quorum and replication
	Kafka   string // host:port for Kafka clients
	MQTT    string // host:port for devices
	Role    Role
	Zone    string
	Version string // of weir
	Wire    int    // newest version of the calls between nodes that it speaks
	Expect  int    // nodes it waits for before the quorum is formed; 0 = it only joins
	Quorum  bool   // it is in a quorum, or has been
	Disk    string // ok, warn, full
	Load    int    // 0 to 9
	Clock   string // trusted, coarse, unset
}

const maxTagBytes = 512

// encode is the form on the wire. Names are short: all of it travels with every change.
func (t Tags) encode() (map[string]string, error) {
	m := map[string]string{}
	put := func(k, v string) {
		if v != "" && v != "0" && v != "false" {
			m[k] = v
		}
	}
	put("cid", t.Cluster)
	put("name", t.Name)
	put("rpc", t.Peer)
	put("kafka", t.Kafka)
	put("mqtt", t.MQTT)
	put("role", string(t.Role))
	put("zone", t.Zone)
	put("ver", t.Version)
	put("proto", strconv.Itoa(t.Wire))
	put("expect", strconv.Itoa(t.Expect))
	put("quorum", strconv.FormatBool(t.Quorum))
	put("disk", t.Disk)
	put("load", strconv.Itoa(t.Load))
	put("clk", t.Clock)
	size := 0
	for k, v := range m {
		size += len(k) + len(v) + 4
	}
	if size > maxTagBytes {
		return nil, fmt.Errorf("what node %.40q says of itself takes %d bytes, limit %d: shorten its name, zone or addresses", t.Name, size, maxTagBytes)
	}
	return m, nil
}

// decode reads what any peer may have sent; what makes no sense is left out.
func decode(m map[string]string) Tags {
	number := func(k string) int {
		n, err := strconv.Atoi(m[k])
		if err != nil || n < 0 || n > 1<<20 {
			return 0
		}
		return n
	}
	clean := func(k string) string {
		v := m[k]
		if len(v) > 255 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "" // it would end up in logs and tables
		}
		return v
	}
	return Tags{
		Cluster: clean("cid"), Name: clean("name"), Peer: clean("rpc"), Kafka: clean("kafka"), MQTT: clean("mqtt"),
		Role: Role(clean("role")), Zone: clean("zone"), Version: clean("ver"), Wire: number("proto"), Expect: number("expect"),
		Quorum: m["quorum"] == "true", Disk: clean("disk"), Load: min(number("load"), 9), Clock: clean("clk"),
	}
}
