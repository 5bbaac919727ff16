package tokenvault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"tokenvault.example/client/go/tokenvault"
	pb "tokenvault.example/client/go/tokenvault/v1"
)

var asked = tokenvault.TokenRequest{Brand: "acme", Context: tokenvault.Conversation("c-1")}

func fails(err error) func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	return func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) { return nil, err }
}

func TestEveryReasonOfTheContractIsAnError(t *testing.T) {
	families := map[string]error{
		"SESSION_ENDED": tokenvault.ErrConsentRequired, "POLICY_DENIED": tokenvault.ErrAccessDenied,
		"CODE_REJECTED": tokenvault.ErrDelegationFailed, "AS_UNAVAILABLE": tokenvault.ErrUnavailable,
		"INVALID_REQUEST": tokenvault.ErrInvalidRequest,
	}
	vault := &scripted{}
	client := world(t, vault)
	for number, name := range pb.ErrorReason_name {
		if number == 0 {
			continue
		}
		reason := strings.TrimPrefix(name, "ERROR_REASON_")
		vault.get = fails(refusal(codes.Aborted, reason))
		_, err := client.GetToken(t.Context(), asked)
		var ours *tokenvault.Error
		if !errors.As(err, &ours) || ours.Reason != reason || ours.Metadata["brand"] != "acme" {
			t.Errorf("%s came as %#v", reason, err)
		}
		if family := families[reason]; family != nil && !errors.Is(err, family) {
			t.Errorf("%s is not %v", reason, family)
		}
		if errors.Is(err, tokenvault.ErrUnreachable) {
			t.Errorf("%s: the sidecar was reached", reason)
		}
	}
}

func TestDetailsOfAnError(t *testing.T) {
	vault := &scripted{get: fails(refusal(codes.ResourceExhausted, "UNHEARD_OF",
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "brand_id", Description: "empty"}}},
	))}
	_, err := world(t, vault).GetToken(t.Context(), asked)
	var ours *tokenvault.Error
	if !errors.As(err, &ours) || ours.RetryDelay != 1500*time.Millisecond || ours.FieldViolations[0].Field != "brand_id" {
		t.Errorf("%#v", err)
	}
	if !errors.Is(err, tokenvault.ErrUnavailable) {
		t.Error("a reason that is not known is of its code's family")
	}
}

func TestADeadlineOfTheCallersOwn(t *testing.T) {
	vault := &scripted{get: func(ctx context.Context, _ *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	client := world(t, vault)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.GetToken(ctx, asked); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := client.GetToken(ctx, asked); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestADefaultDeadline(t *testing.T) {
	vault := &scripted{get: func(ctx context.Context, _ *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		if end, has := ctx.Deadline(); !has || time.Until(end) > 10*time.Second || time.Until(end) < 5*time.Second {
			t.Errorf("deadline %v, %v", end, has)
		}
		return token("v1", time.Hour), nil
	}}
	_, err := world(t, vault).GetToken(t.Context(), asked)
	must(t, err)
}

func TestOnlyWhatIsSafeIsRepeated(t *testing.T) {
	away := refusal(codes.Unavailable, "AS_UNAVAILABLE")
	vault := &scripted{get: fails(away), start: func(context.Context, *pb.StartDelegationRequest) (*pb.StartDelegationResponse, error) {
		return nil, away
	}}
	client := world(t, vault)
	_, err := client.GetToken(t.Context(), asked)
	if calls := vault.calls.Swap(0); !errors.Is(err, tokenvault.ErrUnavailable) || calls != 4 {
		t.Errorf("GetToken: %d calls, %v", calls, err)
	}
	_, err = client.StartDelegation(t.Context(), tokenvault.Delegation{Brand: "acme"})
	if calls := vault.calls.Load(); !errors.Is(err, tokenvault.ErrUnavailable) || calls != 1 {
		t.Errorf("StartDelegation: %d calls, %v", calls, err)
	}
}

func TestWhereTheSidecarForbidsItNothingIsRepeated(t *testing.T) {
	vault := &scripted{get: func(ctx context.Context, _ *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		must(t, grpc.SetTrailer(ctx, metadata.Pairs("grpc-retry-pushback-ms", "-1")))
		return nil, refusal(codes.Unavailable, "AS_UNAVAILABLE")
	}}
	_, err := world(t, vault).GetToken(t.Context(), asked)
	if calls := vault.calls.Load(); !errors.Is(err, tokenvault.ErrUnavailable) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestNoSidecarAndAnotherAuthority(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.issue("bot")
	vault := &scripted{get: fails(nil)}
	address, server := a.serve(vault, "tcp", "127.0.0.1:0")
	config := a.config(address)
	config.CA = other.file("ca.pem")
	if _, err := dial(t, config).GetToken(t.Context(), asked); !errors.Is(err, tokenvault.ErrUnreachable) {
		t.Error(err)
	}
	server.Stop()
	_, err := dial(t, a.config(address)).GetToken(t.Context(), asked)
	if !errors.Is(err, tokenvault.ErrUnreachable) || !strings.Contains(err.Error(), address) {
		t.Error(err)
	}
}

func TestCertificatesAreReadAgain(t *testing.T) {
	vault := &scripted{get: func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		return token("v1", time.Hour), nil
	}}
	a := newAuthority(t)
	a.issue("bot")
	address, _ := a.serve(vault, "tcp", "127.0.0.1:0")
	client := dial(t, a.config(address))
	_, err := client.GetToken(t.Context(), asked)
	must(t, err)
	under, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	vault.watch = func(_ *pb.WatchDelegationRequest, to events) error {
		close(under)
		<-goOn
		return to.Send(&pb.WatchDelegationResponse{
			Status: pb.DelegationStatus_DELEGATION_STATUS_COMPLETED, Delegated: &pb.CompleteDelegationResponse{},
		})
	}
	go func() {
		_, err := client.WatchDelegation(t.Context(), "d-1")
		ended <- err
	}()
	<-under
	a.issue("renamed")
	must(t, os.Rename(a.file("renamed.key"), a.file("bot.key"))) // for a moment they do not fit
	must(t, os.Rename(a.file("renamed.pem"), a.file("bot.pem")))
	for end := time.Now().Add(20 * time.Second); vault.seen.Load() != "renamed"; time.Sleep(20 * time.Millisecond) {
		_, err := client.GetToken(t.Context(), asked)
		must(t, err)
		if time.Now().After(end) {
			t.Fatal("the old certificate is still shown")
		}
	}
	close(goOn) // what was under way ends on the old connection
	must(t, <-ended)
}

func TestAUnixSocket(t *testing.T) {
	vault := &scripted{get: func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		return token("v1", time.Hour), nil
	}}
	a := newAuthority(t)
	a.issue("bot")
	folder, err := os.MkdirTemp("", "tv") // a socket's path must be short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	path, _ := a.serve(vault, "unix", filepath.Join(folder, "s"))
	_, err = dial(t, a.config("unix:"+path)).GetToken(t.Context(), asked)
	must(t, err)
}

func TestFromTheEnvironment(t *testing.T) {
	a := newAuthority(t)
	a.issue("bot")
	t.Setenv("TOKENVAULT_ADDRESS", "127.0.0.1:1")
	t.Setenv("TOKENVAULT_CA", a.file("ca.pem"))
	t.Setenv("TOKENVAULT_CERT", "")
	t.Setenv("TOKENVAULT_KEY", "")
	_, err := tokenvault.FromEnvironment()
	if err == nil || !strings.Contains(err.Error(), "TOKENVAULT_CERT") || !strings.Contains(err.Error(), "TOKENVAULT_KEY") {
		t.Fatal(err)
	}
	t.Setenv("TOKENVAULT_CERT", a.file("bot.pem"))
	t.Setenv("TOKENVAULT_KEY", a.file("none.key"))
	if _, err = tokenvault.FromEnvironment(); err == nil || !strings.Contains(err.Error(), "none.key") {
		t.Fatal(err)
	}
	t.Setenv("TOKENVAULT_KEY", a.file("bot.key"))
	client, err := tokenvault.FromEnvironment()
	must(t, err)
	must(t, client.Close())
}

func TestNoSecretIsShown(t *testing.T) {
	shown := []any{
		tokenvault.Token{AccessToken: "secret", IDToken: "secret", TokenVersion: "v1"},
		&tokenvault.Token{AccessToken: "secret", TokenVersion: "v1"},
		tokenvault.Challenge{AuthorizationURL: "https://as/?state=secret"},
		tokenvault.Consumer("secret"),
		tokenvault.Delegated{Context: tokenvault.Conversation("secret"), Subject: "secret", Confirmation: &tokenvault.Confirmation{Code: "secret"}},
		&tokenvault.Delegated{Subject: "secret", Confirmation: &tokenvault.Confirmation{Code: "secret"}},
		tokenvault.TokenRequest{Context: tokenvault.Consumer("secret")},
		tokenvault.Delegation{
			Context: tokenvault.Consumer("secret"), ExpectedSubject: "secret",
			AuthorizationParameters: map[string]string{"login_hint": "secret"},
		},
		tokenvault.Error{Challenge: &tokenvault.Challenge{AuthorizationURL: "secret"}},
		&tokenvault.Error{Challenge: &tokenvault.Challenge{AuthorizationURL: "secret"}},
	}
	for _, value := range shown {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			if text := fmt.Sprintf(verb, value); strings.Contains(text, "secret") || strings.Contains(text, "736563726574") {
				t.Errorf("%s shows %s", verb, text)
			}
		}
		var log bytes.Buffer
		slog.New(slog.NewJSONHandler(&log, nil)).Info("said", "it", value)
		slog.New(slog.NewTextHandler(&log, nil)).Info("said", "it", value)
		if strings.Contains(log.String(), "secret") {
			t.Errorf("slog shows %s", log.String())
		}
	}
}
