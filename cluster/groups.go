package cluster

import (
	"context"
	"fmt"
	"maps"

	"github.com/weir-io/weir/cluster/meta"
)

// AlterGroupConfigs changes the configs of a consumer group: change gets those that it has, and may write into them. They are in force here when it
// returns. What the configs mean is for who asks to know; an error of change is answered as it is.
func (b *Broker) AlterGroupConfigs(ctx context.Context, group string, change func(map[string]string) error) error {
	_, err := decide(ctx, b.quorum, func(im *meta.Image) (any, error) {
		had := im.ConfigsOfGroup(group)
		configs := maps.Clone(had)
		if configs == nil {
			configs = map[string]string{}
		}
		if err := change(configs); err != nil || maps.Equal(configs, had) { // C6: says nothing new
			return nil, err
		}
		return b.quorum.Propose(ctx, &meta.AlterGroupConfigs{Expect: im.GroupsVersion, Group: group, Configs: configs})
	})
	if err != nil {
		return fmt.Errorf("alter configs of group %.300q: %w", group, err)
	}
	return b.awaitMetadata(ctx)
}
