package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
)

// demoAddrs is where one node listens. The ports are fixed before it starts: other nodes and their clients are told them,
// and a node that is started again has to be found there.
type demoAddrs struct{ mqtt, kafka, http, gossip, raft string }

// demoTries bounds the search for one free port.
const demoTries = 200

// demoPorts finds addresses for n nodes: as in the README 11883, 11092 … for the first and 12883, 12092 … for the second;
// where one of those is in use, a port below those from which clients dial.
func demoPorts(n int) ([]demoAddrs, error) {
	var held []io.Closer // until all are found, so that none is found twice
	defer func() {
		for _, h := range held {
			_ = h.Close()
		}
	}()
	var err error
	find := func(port int) (addr string) {
		for try := 0; err == nil; try++ {
			addr = fmt.Sprintf("127.0.0.1:%d", port)
			h, taken := hold(addr)
			held = append(held, h...)
			if taken == nil {
				return addr
			}
			if try == demoTries {
				err = fmt.Errorf("no free port on 127.0.0.1 in %d tries, the last: %w", demoTries, taken)
			}
			port = 20_000 + rand.IntN(12_000)
		}
		return ""
	}
	all := make([]demoAddrs, n)
	for i := range all {
		base := 10_000 + 1000*(i+1)
		all[i] = demoAddrs{mqtt: find(base + 883), kafka: find(base + 92), http: find(base + 80), gossip: find(base + 946), raft: find(base + 947)}
	}
	return all, err
}

// hold binds an address for TCP and UDP (gossip needs both).
func hold(addr string) ([]io.Closer, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return []io.Closer{tcp, udp}, nil
}
