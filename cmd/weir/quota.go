package main

import "time"

// quota holds MQTT clients to the quotas that Kafka's tools set.
type quota struct{ n *node }

// Publish implements mqtt.Quota.
func (q quota) Publish(user, clientID string, bytes int) time.Duration {
	return q.n.kafka.DevicePublished(user, clientID, bytes)
}
