package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weir-io/weir/bridge/group"
	"github.com/weir-io/weir/cluster"
)

// Configs that a consumer group may have of its own (Kafka's entity type groups). They are of the consumer protocol: members of the classic protocol bring theirs.
const (
	groupSession   = "consumer.session.timeout.ms"
	groupHeartbeat = "consumer.heartbeat.interval.ms"
)

// Bounds of the heartbeat interval. Those of the session are group.Config's.
const (
	minHeartbeat = 100 * time.Millisecond
	maxHeartbeat = time.Minute
)

var groupConfigNames = []string{groupHeartbeat, groupSession}

// paceOf is how members of the group are to show themselves, by its own configs.
func (s *Server) paceOf(name string) group.Pace {
	configs := s.broker.Image().ConfigsOfGroup(name)
	if configs == nil {
		return group.Pace{}
	}
	return group.Pace{Session: millisOf(configs[groupSession]), Heartbeat: millisOf(configs[groupHeartbeat])}
}

// millisOf is 0 for no value, and for one that somebody with other ideas has written.
func millisOf(text string) time.Duration {
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return time.Duration(n) * time.Millisecond
}

// alterGroupConfigs carries out set and delete, all or none.
func (s *Server) alterGroupConfigs(ctx context.Context, name string, changes []kmsg.IncrementalAlterConfigsRequestResourceConfig, validateOnly bool) (code int16, why string) {
	if name == "" || len(name) > maxGroupIDBytes {
		return errInvalidRequest, fmt.Sprintf("a group is named by 1 to %d bytes: there are no configs for all groups but the node's file", maxGroupIDBytes)
	}
	change := func(configs map[string]string) error {
		seen := make(map[string]bool)
		for _, c := range changes {
			switch {
			case seen[c.Name]:
				return fmt.Errorf("%w: %q is changed twice", cluster.ErrInvalidConfig, c.Name)
			case c.Op == kmsg.IncrementalAlterConfigOpDelete: // what is not there is gone already
				delete(configs, c.Name)
			case !slices.Contains(groupConfigNames, c.Name):
				return fmt.Errorf("%w: %q: groups have %s and %s, and nothing else of their own", cluster.ErrInvalidConfig, c.Name, groupSession, groupHeartbeat)
			case c.Op == kmsg.IncrementalAlterConfigOpSet && c.Value != nil:
				configs[c.Name] = *c.Value
			default:
				return fmt.Errorf("%w: %q is set to a value, or deleted", cluster.ErrInvalidConfig, c.Name)
			}
			seen[c.Name] = true
		}
		return s.checkGroupConfigs(configs)
	}
	if validateOnly {
		configs := maps.Clone(s.broker.Image().ConfigsOfGroup(name))
		if configs == nil {
			configs = map[string]string{}
		}
		if err := change(configs); err != nil {
			return codeOf(err), err.Error()
		}
		return errNone, ""
	}
	if err := s.broker.AlterGroupConfigs(ctx, name, change); err != nil {
		return codeOf(err), err.Error()
	}
	return errNone, ""
}

// checkGroupConfigs holds them against the bounds, and against each other, with the node's own where the group has none.
func (s *Server) checkGroupConfigs(configs map[string]string) error {
	cfg := &s.groups.cfg.Config
	within := func(name string, low, high, own time.Duration) (time.Duration, error) {
		text, set := configs[name]
		if !set {
			return own, nil
		}
		d := millisOf(text)
		if d < low || d > high {
			return 0, fmt.Errorf("%w: %s=%.40q: want %d to %d", cluster.ErrInvalidConfig, name, text, low.Milliseconds(), high.Milliseconds())
		}
		return d, nil
	}
	session, err := within(groupSession, cfg.MinSessionTimeout, cfg.MaxSessionTimeout, cfg.ConsumerSession)
	if err != nil {
		return err
	}
	heartbeat, err := within(groupHeartbeat, minHeartbeat, maxHeartbeat, cfg.ConsumerHeartbeat)
	if err != nil {
		return err
	}
	if session <= heartbeat {
		return fmt.Errorf("%w: a session of %v with a heartbeat each %v: nobody would stay in", cluster.ErrInvalidConfig, session, heartbeat)
	}
	return nil
}

// groupConfigs describes those of one group, which need not exist.
func (s *Server) groupConfigs(name string, withSynonyms bool) []kmsg.DescribeConfigsResponseResourceConfig {
	own, cfg := s.broker.Image().ConfigsOfGroup(name), &s.groups.cfg.Config
	var out []kmsg.DescribeConfigsResponseResourceConfig
	for _, c := range []struct {
		name, synonym string
		value         time.Duration
	}{
		{groupHeartbeat, "group.consumer.heartbeat.interval.ms", cfg.ConsumerHeartbeat},
		{groupSession, "group.consumer.session.timeout.ms", cfg.ConsumerSession},
	} {
		rc := kmsg.NewDescribeConfigsResponseResourceConfig()
		value, set := own[c.name]
		rc.Name, rc.ConfigType, rc.IsDefault, rc.Source = c.name, kmsg.ConfigTypeInt, !set, kmsg.ConfigSourceGroupConfig
		inherited := strconv.FormatInt(c.value.Milliseconds(), 10)
		if !set {
			value, rc.Source = inherited, kmsg.ConfigSourceDefaultConfig
		}
		rc.Value = &value
		if withSynonyms {
			if set {
				rc.ConfigSynonyms = append(rc.ConfigSynonyms, kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{Name: c.name, Value: &value, Source: rc.Source})
			}
			rc.ConfigSynonyms = append(rc.ConfigSynonyms, kmsg.DescribeConfigsResponseResourceConfigConfigSynonym{Name: c.synonym, Value: &inherited, Source: kmsg.ConfigSourceDefaultConfig})
		}
		out = append(out, rc)
	}
	return out
}
