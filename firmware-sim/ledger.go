package firmwaresim

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// Ledger is what a run says about itself: for every device what it sent and what the broker acknowledged. It makes no
// claim about what the broker stored; `weir audit --ledger` compares it with the log.
type Ledger struct {
	Broker  string         `json:"broker,omitempty"`
	Profile string         `json:"profile"`
	Format  string         `json:"format"`
	Seed    uint64         `json:"seed"`
	Started time.Time      `json:"started"`
	Ended   time.Time      `json:"ended"`
	Devices []DeviceLedger `json:"devices"`
}

// DeviceLedger is one device's part.
type DeviceLedger struct {
	Device  string `json:"device"`
	Sent    int64  `json:"sent"`     // readings that left the device at least once
	Acked   int64  `json:"acked"`    // readings with a successful PUBACK
	LastSeq int64  `json:"last_seq"` // greatest number given to a reading; -1 if there was none

	Refused    int64 `json:"refused,omitempty"`    // readings with a PUBACK of reason 0x80 or more: gone for good
	Pending    int64 `json:"pending,omitempty"`    // readings still in the buffer when the run ended
	Skipped    int64 `json:"skipped,omitempty"`    // readings not taken because the buffer was full
	Resent     int64 `json:"resent,omitempty"`     // PUBLISH packets that repeated a reading after a lost connection
	Duplicates int64 `json:"duplicates,omitempty"` // PUBLISH packets that repeated a reading on purpose (fault)
	Connects   int64 `json:"connects,omitempty"`
	Reboots    int64 `json:"reboots,omitempty"`
	Commands   int64 `json:"commands,omitempty"` // commands answered

	AckedSeqs Ranges `json:"acked_seqs"`
}

// Totals sums the devices; LastSeq is the greatest, AckedSeqs stays empty.
func (l *Ledger) Totals() DeviceLedger {
	t := DeviceLedger{Device: "total", LastSeq: -1}
	for i := range l.Devices {
		d := &l.Devices[i]
		t.Sent += d.Sent
		t.Acked += d.Acked
		t.LastSeq = max(t.LastSeq, d.LastSeq)
		t.Refused += d.Refused
		t.Pending += d.Pending
		t.Skipped += d.Skipped
		t.Resent += d.Resent
		t.Duplicates += d.Duplicates
		t.Connects += d.Connects
		t.Reboots += d.Reboots
		t.Commands += d.Commands
	}
	return t
}

// Check tells whether the ledger contradicts itself; it returns the first fault found.
func (l *Ledger) Check() error {
	for i := range l.Devices {
		d := &l.Devices[i]
		_, next := d.AckedSeqs.Bounds()
		switch {
		case d.AckedSeqs.Len() != d.Acked:
			return fmt.Errorf("ledger: device %s has acked %d but %d acked sequence numbers", d.Device, d.Acked, d.AckedSeqs.Len())
		case d.Acked+d.Refused > d.Sent:
			return fmt.Errorf("ledger: device %s has sent %d but acked %d and refused %d", d.Device, d.Sent, d.Acked, d.Refused)
		case next > d.LastSeq+1:
			return fmt.Errorf("ledger: device %s has an ack for %d after its last sequence number %d", d.Device, next-1, d.LastSeq)
		}
	}
	return nil
}

// Encode returns the ledger as one line of JSON.
func (l *Ledger) Encode() ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode ledger: %w", err)
	}
	return append(b, '\n'), nil
}

// WriteFile writes the ledger as JSON, replacing the file at path.
func (l *Ledger) WriteFile(path string) error {
	b, err := l.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fmt.Errorf("write ledger: %w", err)
	}
	return nil
}

// ReadLedger reads a file that WriteFile wrote and checks it.
func ReadLedger(path string) (*Ledger, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read ledger: %w", err)
	}
	var l Ledger
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("read ledger %s: not a weir-sim report: %w", path, err)
	}
	if err := l.Check(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &l, nil
}
