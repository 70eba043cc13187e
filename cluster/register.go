package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-io/weir/cluster/meta"
)

// register gets this process its broker epoch (A7). Among others it waits, as long as it takes, until it is part of a cluster.
func (b *Broker) register(ctx context.Context, nonce meta.UUID) error {
	if b.cfg.Peer == nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, b.cfg.StartTimeout, fmt.Errorf("no metadata quorum within %s", b.cfg.StartTimeout))
		defer cancel()
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	go func() { // a damaged metadata file ends the start at once, not by its time limit
		select {
		case <-b.failed:
			giveUp(b.Err())
		case <-ctx.Done():
		}
	}()
	reg, err := b.enter(ctx, nonce)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if err := b.quorum.await(ctx, reg.Version); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	b.ident.confirm(nonce)
	b.ident.Epoch = reg.BrokerEpoch
	b.unsaved = true
	b.id, b.epoch, b.clusterID = reg.BrokerID, reg.BrokerEpoch, b.ident.ClusterID
	b.cfg.Logger.Info("registered", "node", b.cfg.NodeID, "broker", b.id, "epoch", b.epoch, "cluster", b.clusterID)
	return nil
}

// enter registers with the cluster that this node is part of. An id that was drawn here is that of the cluster once it was registered with, and not
// before: the quorum may have had another leader meanwhile, which drew another.
func (b *Broker) enter(ctx context.Context, nonce meta.UUID) (meta.Registration, error) {
	for {
		drawn, err := b.belong(ctx)
		if err != nil {
			return meta.Registration{}, err
		}
		reg, err := b.announce(ctx, nonce)
		switch {
		case !drawn:
			return reg, err
		case err == nil:
			return reg, b.adopt(b.ident.ClusterID)
		case !errors.Is(err, meta.ErrRefused):
			return reg, err
		}
		b.ident.ClusterID = ""
	}
}

// belong returns when it is known which cluster this node is part of (C3): the one whose metadata has come here, or a new one, if this node
// leads a quorum without any: then its id is drawn, and kept nowhere yet.
func (b *Broker) belong(ctx context.Context) (drawn bool, err error) {
	for {
		changed := b.imageChanged()
		leads, moved := b.node.Leads()
		switch im := b.node.Image(); {
		case im.ClusterID != "" && b.ident.ClusterID == "":
			return false, b.adopt(im.ClusterID)
		case im.ClusterID != "" && im.ClusterID != b.ident.ClusterID:
			return false, fmt.Errorf("this directory belongs to cluster %s, its metadata to cluster %s: %s", b.ident.ClusterID, im.ClusterID, identityIsOther)
		case b.ident.ClusterID != "":
			return false, nil
		case leads:
			id, err := newIdentity(b.cfg.Rand)
			if err != nil {
				return false, err
			}
			b.ident.ClusterID = id.ClusterID
			return true, nil
		}
		select {
		case <-changed:
		case <-moved:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// adopt makes durable which cluster this directory belongs to, before anything of that cluster is in it.
func (b *Broker) adopt(cluster string) error {
	if err := b.ident.mayJoin(cluster); err != nil {
		return err
	}
	b.ident.ClusterID, b.ident.Former = cluster, ""
	b.setCluster(cluster)
	return b.ident.save(b.cfg.FS, b.cfg.DataDir)
}

// announceAgain is how long to wait before a registration is proposed again.
const announceAgain = time.Second

// announce proposes the registration until it is answered.
func (b *Broker) announce(ctx context.Context, nonce meta.UUID) (meta.Registration, error) {
	cmd := &meta.RegisterBroker{
		ClusterID: b.ident.ClusterID, UUID: b.ident.UUID, Nonce: nonce, Held: b.ident.Nonces,
		Host: b.cfg.AdvertiseHost, KafkaPort: b.cfg.KafkaPort, KafkaTLSPort: b.cfg.KafkaTLSPort,
	}
	if b.log.Recovery().Clean {
		cmd.Clean = b.ident.Epoch
	}
	if p := b.cfg.Peer; p != nil {
		cmd.Peer, cmd.Zone, cmd.Witness = b.port.advertised(), p.Zone, p.Witness
	}
	said := false
	for began := b.mono(); ; {
		sent := b.mono()
		reg, err := b.controller.register(ctx, cmd)
		if err == nil && b.duties.lease != nil { // it is a renewal too
			b.duties.mu.Lock()
			b.duties.lease.Sent(sent)
			b.duties.lease.Answered(sent, reg.Version)
			b.duties.mu.Unlock()
		}
		old := b.node.Image().BrokerByUUID(cmd.UUID)
		switch {
		case err == nil || b.cfg.Peer == nil:
			return reg, err
		case errors.Is(err, meta.ErrUnavailable): // the quorum changes its leader; if it was accepted, the same request gets the same answer (C4)
		case !errors.Is(err, meta.ErrRefused):
			return reg, err
		case old == nil || slices.Contains(cmd.Held, old.Nonce):
			// What it was refused for may not have come here yet.
			if im := b.node.Image(); im.ClusterID != "" && im.ClusterID != cmd.ClusterID || b.mono()-began > b.cfg.StartTimeout {
				return reg, err
			}
		default:
			if !said {
				said = true
				b.cfg.Logger.Warn("this data directory is not the newest that the cluster has seen of this node; it is let in as one that may lack "+
					"records once the process before it is known to be gone", "error", err)
			}
			if old.Fenced {
				cmd.Replaces = old.Epoch // a second request, which names whom it replaces (E5)
			}
		}
		select {
		case <-time.After(announceAgain):
		case <-ctx.Done():
			return reg, fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// imageChanged is closed when the node has a newer Image than at the call; it may not be in force here yet.
func (b *Broker) imageChanged() <-chan struct{} {
	b.images.Lock()
	defer b.images.Unlock()
	return b.images.changed
}
