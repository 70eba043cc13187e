package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weir-io/weir/log"
)

// answerAppend appends what another broker forwards (M10). It answers when everything is committed, or refused, or forwardAnswer has passed.
func (b *Broker) answerAppend(ctx context.Context, c *appendCall, raw []byte) appendAnswer {
	type outcome struct {
		i   int
		err error
	}
	outcomes := make(chan outcome, len(c.Parts))
	errs := make([]error, len(c.Parts))
	refused := map[log.PartitionID]struct{}{}
	for i, part := range c.Parts {
		errs[i] = errUndecided
		var own []byte
		if part.Bytes < 0 || part.Bytes > len(raw) {
			outcomes <- outcome{i, fmt.Errorf("batch of %d bytes in %d: %w", part.Bytes, len(raw), log.ErrCorrupt)}
			continue
		}
		own, raw = raw[:part.Bytes], raw[part.Bytes:]
		id, ok := part.id()
		if _, behind := refused[id]; ok && behind {
			// It comes again, behind the one that was refused. A leader that does not know the producer yet would take it first, and that one never.
			outcomes <- outcome{i, errUndecided}
			continue
		}
		if err := b.produceFor(&part, own, func(_ log.Offset, _ int64, err error) { outcomes <- outcome{i, err} }); err != nil {
			refused[id] = struct{}{}
			outcomes <- outcome{i, err}
		}
	}
	timer := time.NewTimer(forwardAnswer)
	defer timer.Stop()
	a := appendAnswer{Parts: make([]appendOutcome, len(c.Parts))}
	for range c.Parts {
		select {
		case o := <-outcomes:
			errs[o.i] = o.err
			continue
		case <-timer.C:
		case <-ctx.Done():
		case <-b.closing:
			for i := range errs {
				if errs[i] == errUndecided { // which is sent again at once: this broker, forwarding to itself, would do nothing else
					errs[i] = ErrClosed
				}
			}
		}
		break
	}
	for i, err := range errs {
		a.Parts[i] = outcomeOf(err)
	}
	return a
}

// produceFor is Partition.Produce; what is refused it answers itself, and done hears nothing.
func (b *Broker) produceFor(w *appendPart, raw []byte, done func(log.Offset, int64, error)) error {
	id, ok := w.id()
	table := b.table.Load()
	var p *Partition
	var err error
	if t := table.image.TopicByID(id.Topic); !ok || t == nil || id.Index < 0 || int(id.Index) >= len(t.Partitions) {
		err = ErrNotLeader // not ErrUnknownTopic: the metadata may not have come here yet
	} else {
		p, err = table.led(id)
	}
	var batch log.Batch
	if err == nil {
		if batch, err = log.NextBatch(raw, len(raw)); err == nil {
			err = batch.Validate(log.DefaultMaxDecompressed) // A8
		}
	}
	if err == nil && batch.IsControl() {
		err = fmt.Errorf("a control batch is not forwarded: %w", log.ErrCorrupt)
	}
	var in []Term
	if err == nil {
		in, err = fromWireTerms(w.Terms)
	}
	if err != nil {
		return err
	}
	if _, _, err = p.produce(batch, -1, notVerified, in, done); err != nil {
		return p.wrap("produce to", err)
	}
	return nil
}

func outcomeOf(err error) appendOutcome {
	if err == nil {
		return appendOutcome{}
	}
	for i, e := range remoteErrors {
		if errors.Is(err, e) {
			return appendOutcome{i + 1, err.Error()}
		}
	}
	return appendOutcome{len(remoteErrors) + 1, err.Error()}
}

func (o *appendOutcome) err() error {
	switch {
	case o.Code == 0:
		return nil
	case o.Code > 0 && o.Code <= len(remoteErrors):
		return fmt.Errorf("%w: %s", remoteErrors[o.Code-1], o.Text)
	}
	return errors.New(o.Text)
}
