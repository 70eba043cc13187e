package cluster

import (
	"context"
	"fmt"
	"maps"

	"github.com/weir-io/weir/cluster/meta"
)

// QuotaChange is what is to become of the quotas of one entity: some are set, others removed, the rest stays.
type QuotaChange struct {
	Entity meta.QuotaEntity
	Set    map[string]float64
	Remove []string
}

// AlterClientQuotas changes quotas, all together; they are in force here when it returns. Each entity is named once. What the names mean is for who
// honours them. With validateOnly nothing is changed.
func (b *Broker) AlterClientQuotas(ctx context.Context, changes []QuotaChange, validateOnly bool) error {
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		cmd := &meta.AlterClientQuotas{Expect: im.QuotasVersion}
		for _, ch := range changes {
			had := im.QuotasOf(ch.Entity)
			values := make(map[string]float64, len(had)+len(ch.Set))
			maps.Copy(values, had)
			for _, k := range ch.Remove {
				delete(values, k)
			}
			maps.Copy(values, ch.Set)
			if !maps.Equal(values, had) {
				cmd.Quotas = append(cmd.Quotas, meta.ClientQuotas{Entity: ch.Entity, Values: values})
			}
		}
		switch {
		case len(cmd.Quotas) == 0: // C6: says nothing new
			return nil, nil
		case validateOnly:
			_, _, err := im.Apply(cmd)
			return nil, err
		}
		return b.quorum.Propose(ctx, cmd)
	})
	if err != nil {
		return fmt.Errorf("alter quotas: %w", err)
	}
	if validateOnly {
		return nil
	}
	return b.awaitMetadata(ctx)
}
