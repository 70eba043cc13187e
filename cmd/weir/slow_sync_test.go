package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/weir-io/weir/log/vfs"
)

// One connection with a window of 100 on a disk whose syncs take 5 ms longer: acks are pipelined with the syncs, so that the rate
// is that of whole windows, not of messages. The target is 10,000 messages a second.
func BenchmarkOneConnectionOnASlowDisk(b *testing.B) {
	cfg := Defaults()
	cfg.Cluster.Gossip, cfg.Cluster.Raft = "", ""
	cfg.Node.Data = b.TempDir()
	cfg.MQTT.Listen, cfg.MQTT.WS, cfg.Kafka.Listen, cfg.HTTP.Listen = "127.0.0.1:0", "", "127.0.0.1:0", ""
	disk := vfs.NewFault(vfs.OS{})
	disk.Inject(vfs.Rule{Ops: vfs.OpSync, Match: "*.wal", Delay: 5 * time.Millisecond})
	n, stop := startNodeOn(b, cfg, disk)
	defer stop()
	dial, err := parseMQTTDial("mqtt://"+n.addrOf("mqtt"), "5")
	if err != nil {
		b.Fatal(err)
	}
	dial.clientID = "one"
	conn, err := dial.open(16 << 10)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	const window = 100
	cmd := &benchMQTTCmd{Window: window, Size: 256, QoS: 1, Topic: "bench/%d"}
	l := &mqttLoad{cmd: cmd, dial: dial, base: time.Now()}
	p := &publisher{mqttConn: conn, l: l, window: window, stampAt: -1, sentAt: make([]int64, window)}
	for i := range 2 * window {
		frame, _ := publishFrame(dial.version, "bench/0", 1, uint16(i%window+1), bytes.Repeat([]byte("x"), 256))
		p.block, p.size = append(p.block, frame...), len(frame)
	}
	b.ResetTimer()
	sent, acked := min(window, b.N), 0
	if err := p.write(0, sent, 0); err != nil {
		b.Fatal(err)
	}
	for acked < b.N {
		n := 1
		if _, err := p.readAck(); err != nil {
			b.Fatal(err)
		}
		for ; conn.buffered(); n++ {
			if _, err := p.readAck(); err != nil {
				b.Fatal(err)
			}
		}
		acked += n
		if n = min(n, b.N-sent); n > 0 {
			if err := p.write(sent%window, n, 0); err != nil {
				b.Fatal(err)
			}
			sent += n
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
