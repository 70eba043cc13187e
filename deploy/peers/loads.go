package main

import "fmt"

// load is one table of the comparison: what every broker is given, and what is shown of it.
type load struct {
	name string
	args []string
	// without is the same load less what the table is about; it runs right before, on a fresh directory of its own, so
	// that the two can be compared within a round.
	without []string
	// lasting loads have messages kept for sessions: mosquitto runs a second time with its store on disk.
	lasting bool
	columns []column
}

// column is one figure of a run; the first one of a table is what the ratio compares.
type column struct {
	head, format string
	pick         func(r run) float64
}

// run is what one broker did in one round.
type run struct {
	figures
	without *figures // nil unless the load has such a run
}

func publishing(connections, window, qos int, more ...string) []string {
	return append([]string{"--connections", fmt.Sprint(connections), "--window", fmt.Sprint(window), "--qos", fmt.Sprint(qos), "--size", "256"}, more...)
}

var (
	rate      = column{"msg/s", "%.0f", func(r run) float64 { return r.Rate }}
	cpu       = column{"CPU µs/msg", "%.2f", func(r run) float64 { return r.CPUMicros }}
	ackP50    = column{"ack p50 ms", "%.2f", func(r run) float64 { return r.P50 }}
	ackP99    = column{"ack p99 ms", "%.2f", func(r run) float64 { return r.P99 }}
	peak      = column{"peak RSS MiB", "%.0f", func(r run) float64 { return r.PeakRSS / (1 << 20) }}
	delivered = column{"delivered/s", "%.0f", func(r run) float64 { return r.Deliveries.Rate }}
	e2eP50    = column{"e2e p50 ms", "%.2f", func(r run) float64 { return r.Deliveries.P50 }}
	e2eP99    = column{"e2e p99 ms", "%.2f", func(r run) float64 { return r.Deliveries.P99 }}
	missed    = column{"missing", "%.0f", func(r run) float64 { return float64(r.Deliveries.Expected - r.Deliveries.Received) }}
	// perDelivery is the broker's processor time by what it gave out, publishes included.
	perDelivery = column{"CPU µs/delivery", "%.2f", func(r run) float64 { return r.CPUMicros * r.Rate / max(1, r.Deliveries.Rate) }}
	ofWithout   = column{"of without", "%.2f", func(r run) float64 { return r.Rate / r.without.Rate }}
	replay      = column{"replayed/s", "%.0f", func(r run) float64 { return r.Absent.Rate }}
	unreplayed  = column{"missing", "%.0f", func(r run) float64 { return float64(r.Absent.Expected - r.Absent.Received) }}

	ingress = []column{rate, cpu, ackP50, ackP99, peak}
)

var loads = map[string]load{
	"ingress":   {name: "QoS 1, 64 connections, window 64, 256 B", args: publishing(64, 64, 1), columns: ingress},
	"one":       {name: "QoS 1, 1 connection, window 100, 256 B", args: publishing(1, 100, 1), columns: ingress},
	"ping-pong": {name: "QoS 1, 64 connections, window 1, 256 B", args: publishing(64, 1, 1), columns: ingress},
	"thousand":  {name: "QoS 1, 1000 connections, window 1, 256 B", args: publishing(1000, 1, 1), columns: ingress},
	"qos0":      {name: "QoS 0, 64 connections, 256 B", args: publishing(64, 64, 0), columns: ingress},
	"subscriber": {name: "QoS 1, 64 connections, window 64, 256 B, one durable session on '#' online at QoS 1; without: nobody subscribes",
		args: publishing(64, 64, 1, "--subscribers", "1", "--durable"), without: publishing(64, 64, 1), lasting: true,
		columns: []column{rate, ofWithout, delivered, missed, cpu, ackP99, peak}},
	"fan-in": {name: "5,000 msg/s from 100 devices at QoS 1, 256 B, to one QoS 1 subscriber",
		args:    publishing(100, 100, 1, "--rate", "5000", "--subscribers", "1"),
		columns: []column{delivered, e2eP50, e2eP99, ackP50, ackP99, missed, cpu, peak}},
	"fan-out": {name: "QoS 1, one publisher to 1,000 QoS 1 subscribers, 256 B, the publisher at most 64 messages ahead of them",
		args:    publishing(1, 64, 1, "--subscribers", "1000", "--ahead", "64"),
		columns: []column{delivered, e2eP50, e2eP99, missed, perDelivery, peak}},
	"fan-out0": {name: "QoS 0, one publisher to 1,000 QoS 0 subscribers, 256 B, the publisher at most 64 messages ahead of them",
		args:    publishing(1, 64, 0, "--subscribers", "1000", "--ahead", "64"),
		columns: []column{delivered, e2eP50, e2eP99, missed, perDelivery, peak}},
	"absent": {name: "QoS 1, 64 connections, window 64, 256 B, a lasting session on '#' at QoS 1 is away and then returns; without: it is not there",
		args: publishing(64, 64, 1, "--absent"), without: publishing(64, 64, 1), lasting: true,
		columns: []column{replay, unreplayed, rate, ofWithout, cpu, peak}},
}
