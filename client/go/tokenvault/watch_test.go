package tokenvault_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"tokenvault.example/client/go/tokenvault"
	pb "tokenvault.example/client/go/tokenvault/v1"
)

type events = grpc.ServerStreamingServer[pb.WatchDelegationResponse]

func TestAWatchThatBreaksIsTakenUpAgain(t *testing.T) {
	vault := &scripted{}
	vault.watch = func(r *pb.WatchDelegationRequest, to events) error {
		must(t, to.Send(&pb.WatchDelegationResponse{Status: pb.DelegationStatus_DELEGATION_STATUS_PENDING}))
		switch vault.calls.Load() {
		case 1:
			return refusal(codes.Unavailable, "STORE_UNAVAILABLE",
				&errdetails.RetryInfo{RetryDelay: durationpb.New(10 * time.Millisecond)})
		case 2:
			return nil // without a final status
		}
		return to.Send(&pb.WatchDelegationResponse{
			Status:    pb.DelegationStatus_DELEGATION_STATUS_COMPLETED,
			Delegated: &pb.CompleteDelegationResponse{BrandId: r.GetDelegationId()},
		})
	}
	done, err := world(t, vault).WatchDelegation(t.Context(), "d-1")
	must(t, err)
	if done.Brand != "d-1" || vault.calls.Load() != 3 {
		t.Error(done, vault.calls.Load())
	}
}

func TestWhatADelegationCameTo(t *testing.T) {
	for _, c := range []struct {
		status pb.DelegationStatus
		reason pb.ErrorReason
		is     error
		told   string
	}{
		{pb.DelegationStatus_DELEGATION_STATUS_DENIED, pb.ErrorReason_ERROR_REASON_AUTHORIZATION_DENIED,
			tokenvault.ErrDelegationFailed, "AUTHORIZATION_DENIED"},
		{pb.DelegationStatus_DELEGATION_STATUS_FAILED, pb.ErrorReason_ERROR_REASON_AS_UNAVAILABLE,
			tokenvault.ErrDelegationFailed, "AS_UNAVAILABLE"},
		{pb.DelegationStatus_DELEGATION_STATUS_EXPIRED, 0, tokenvault.ErrDelegationExpired, ""},
	} {
		vault := &scripted{watch: func(_ *pb.WatchDelegationRequest, to events) error {
			return to.Send(&pb.WatchDelegationResponse{Status: c.status, Reason: c.reason})
		}}
		_, err := world(t, vault).WatchDelegation(t.Context(), "d-1")
		var ours *tokenvault.Error
		if !errors.Is(err, c.is) || !errors.Is(err, tokenvault.ErrDelegationFailed) || !errors.As(err, &ours) || ours.Reason != c.told {
			t.Errorf("%v came as %#v", c.status, err)
		}
		if errors.Is(err, tokenvault.ErrUnavailable) || vault.calls.Load() != 1 {
			t.Errorf("%v: watched %d times", c.status, vault.calls.Load())
		}
	}
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	vault := &scripted{watch: func(_ *pb.WatchDelegationRequest, to events) error {
		<-to.Context().Done()
		return to.Context().Err()
	}}
	client := world(t, vault)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.WatchDelegation(ctx, "d-1"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestACodeIsAskedForThoughTheStreamGoesOn(t *testing.T) {
	gone := make(chan struct{})
	vault := &scripted{watch: func(_ *pb.WatchDelegationRequest, to events) error {
		defer close(gone)
		must(t, to.Send(&pb.WatchDelegationResponse{Status: pb.DelegationStatus_DELEGATION_STATUS_PENDING}))
		must(t, to.Send(&pb.WatchDelegationResponse{
			Status: pb.DelegationStatus_DELEGATION_STATUS_AWAITING_CONFIRMATION, ExpireTime: timestamppb.New(time.Unix(2e9, 0)),
		}))
		<-to.Context().Done()
		return to.Context().Err()
	}}
	_, err := world(t, vault).WatchDelegation(t.Context(), "d-1")
	var ours *tokenvault.Error
	if !errors.Is(err, tokenvault.ErrConfirmationRequired) || !errors.As(err, &ours) || ours.Reason != "CONFIRMATION_REQUIRED" {
		t.Fatal(err)
	}
	if ours.Challenge.DelegationID != "d-1" || ours.Challenge.AuthorizationURL != "" || ours.Challenge.ExpireTime.Unix() != 2e9 {
		t.Error(ours.Challenge)
	}
	<-gone
}
