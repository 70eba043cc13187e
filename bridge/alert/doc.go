// Package alert watches telemetry and raises alerts: an ordinary consumer-group application with nothing but the Kafka
// protocol between it and the broker. A rule is either a condition over the figures of a window of one device's readings
// (avg, min, max, sum, count, first, last, rate), or the absence of a device's readings for a time. Alerts go to a topic,
// keyed by device, and to the caller.
//
// It never reads the broker's files, never blocks a producer, and keeps no state of its own outside Kafka.
//
// # The core
//
// Engine is pure: records and the time go in, alerts come out. No goroutine, clock or I/O; Run is the thin shell that
// feeds it from a kgo client.
//
// # Rules the figures stand on
//
//   - Windows are of event time: the record's timestamp, or a payload field of milliseconds. They are aligned to the
//     epoch, half-open [start, end), `window` long, one each `every`.
//   - A partition's watermark is its greatest event time less `lateness`. A window closes, and is judged, when the
//     watermark reaches its end; what comes for a closed window is dropped and counted. An event time more than
//     `lateness` ahead of our own clock is dropped and counted too, since it would close everyone's windows.
//   - A partition that is read to its end and then silent lets its watermark go on with our clock, so that the last
//     window of a device that stopped is judged as well.
//   - An alert fires when a window is true after one that was not, and is resolved by the next that is false.
//   - Absence counts from the arrival of a device's last record, and only while the partition is read to its end: a
//     lagging consumer does not call the fleet silent.
//
// # Restarts
//
// The offset committed for a partition is that of the first record of its oldest open window, and the commit's metadata
// is the watermark. A successor that starts there drops exactly what was judged before and rebuilds exactly what was
// open. What fired and was not resolved is read back from the alert topic; that also tells which windows have already
// spoken, so that a crash between producing an alert and committing repeats none. Not restored is when a device was last
// seen: one that falls silent while no instance runs, and has no open window, is noticed only after its next record.
//
// # Bounds
//
// Devices per partition (max_devices), open windows per device and rule (window, every and lateness fix them), rules per
// file (1,000). A record of a device over the bound is dropped and counted. A device unseen for `forget` is forgotten.
//
// Third-party modules: expr (conditions), franz-go (kgo, kadm).
package alert
