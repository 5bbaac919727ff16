package tokenvault_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"tokenvault.example/client/go/tokenvault"
	pb "tokenvault.example/client/go/tokenvault/v1"
)

func lives(life time.Duration) func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	return func(_ context.Context, r *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		if r.GetRejectedTokenVersion() != "" {
			return token("v2", life), nil
		}
		return token("v1", life), nil
	}
}

func TestAThousandUsersOneCall(t *testing.T) {
	vault := &scripted{get: lives(time.Hour)}
	source := world(t, vault).TokenSource("acme", tokenvault.Conversation("c-1"))
	var users sync.WaitGroup
	for range 1000 {
		users.Go(func() {
			if token, err := source.Token(); err != nil || token.AccessToken != "secret-v1" {
				t.Error(token, err)
			}
		})
	}
	users.Wait()
	if calls := vault.calls.Load(); calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestNearItsEndItIsAskedForAgain(t *testing.T) {
	vault := &scripted{get: lives(500 * time.Millisecond)}
	source := world(t, vault).TokenSource("acme", tokenvault.Consumer("alice"))
	for end := time.Now().Add(20 * time.Second); vault.calls.Load() < 3; time.Sleep(10 * time.Millisecond) {
		token, err := source.Get(t.Context())
		must(t, err)
		if !time.Now().Before(token.ExpireTime) {
			t.Fatal("a token that is over")
		}
		if time.Now().After(end) {
			t.Fatal("it was not asked for again")
		}
	}
}

func TestAFailureIsKeptForNobody(t *testing.T) {
	vault := &scripted{get: fails(refusal(codes.FailedPrecondition, "AS_MISCONFIGURED"))}
	source := world(t, vault).TokenSource("acme", tokenvault.Consumer("alice"))
	if _, err := source.Get(t.Context()); !errors.Is(err, tokenvault.ErrAuthorizationServerMisconfigured) {
		t.Error(err)
	}
	vault.get = lives(time.Hour)
	_, err := source.Get(t.Context())
	must(t, err)
}

func TestWhileThereIsNoSidecarTheHeldTokenServesUntilItsEnd(t *testing.T) {
	away := refusal(codes.Unavailable, "STORE_UNAVAILABLE")
	vault := &scripted{}
	vault.get = func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		if vault.calls.Load() > 1 {
			return nil, away
		}
		answer := token("v1", 5*time.Second)
		answer.Degraded = true // asked again after a second
		return answer, nil
	}
	source := world(t, vault).TokenSource("acme", tokenvault.Consumer("alice"))
	held, err := source.Get(t.Context())
	must(t, err)
	served := false
	for end := time.Now().Add(20 * time.Second); err == nil; time.Sleep(10 * time.Millisecond) {
		var token *tokenvault.Token
		token, err = source.Get(t.Context())
		served = served || err == nil && token == held && vault.calls.Load() > 1
		if time.Now().After(end) {
			t.Fatal("a token that is over is given")
		}
	}
	if !served || !errors.Is(err, tokenvault.ErrUnavailable) || time.Now().Before(held.ExpireTime) {
		t.Error(served, err)
	}
}

func TestADegradedTokenIsAskedForAgainSoon(t *testing.T) {
	vault := &scripted{}
	vault.get = func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		answer := token("v1", time.Hour)
		answer.Degraded = vault.calls.Load() == 1
		return answer, nil
	}
	source := world(t, vault).TokenSource("acme", tokenvault.Consumer("alice"))
	for end := time.Now().Add(20 * time.Second); vault.calls.Load() < 2; time.Sleep(10 * time.Millisecond) {
		_, err := source.Get(t.Context())
		must(t, err)
		if time.Now().After(end) {
			t.Fatal("it was not asked for again")
		}
	}
}

func TestWhoLeavesDoesNotEndItForOthers(t *testing.T) {
	goOn := make(chan struct{})
	vault := &scripted{get: func(context.Context, *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		<-goOn
		return token("v1", time.Hour), nil
	}}
	source := world(t, vault).TokenSource("acme", tokenvault.Conversation("c-1"))
	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := source.Get(hurried); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	close(goOn)
	_, err := source.Get(t.Context())
	must(t, err)
	if calls := vault.calls.Load(); calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

// brandAPI accepts one token.
func brandAPI(t *testing.T, accepts string, requests *atomic.Int32) *httptest.Server {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Authorization") != accepts {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(api.Close)
	return api
}

func TestARejectedTokenIsReplacedAndTheRequestMadeOnceMore(t *testing.T) {
	var requests atomic.Int32
	vault := &scripted{get: lives(time.Hour)}
	api := brandAPI(t, "Bearer secret-v2", &requests)
	source := world(t, vault).TokenSource("acme", tokenvault.Consumer("alice"))
	client := &http.Client{Transport: &tokenvault.Transport{Source: source}}
	answer, err := client.Post(api.URL, "text/plain", strings.NewReader("order"))
	must(t, err)
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK || string(body) != "order" || requests.Load() != 2 || vault.calls.Load() != 2 {
		t.Error(answer.Status, string(body), requests.Load(), vault.calls.Load())
	}
}

func TestOnceMoreAndNoMore(t *testing.T) {
	var requests atomic.Int32
	api := brandAPI(t, "Bearer none", &requests)
	source := world(t, &scripted{get: lives(time.Hour)}).TokenSource("acme", tokenvault.Consumer("alice"))
	client := &http.Client{Transport: &tokenvault.Transport{Source: source}}
	answer, err := client.Get(api.URL)
	must(t, err)
	if answer.StatusCode != http.StatusUnauthorized || requests.Load() != 2 {
		t.Error(answer.Status, requests.Load())
	}
	requests.Store(0)
	unrepeatable := io.MultiReader(bytes.NewReader([]byte("order")))
	answer, err = client.Post(api.URL, "text/plain", unrepeatable)
	must(t, err)
	if answer.StatusCode != http.StatusUnauthorized || requests.Load() != 1 {
		t.Error(answer.Status, requests.Load())
	}
}

func TestAConsentThatWasWithdrawnIsToldInsteadOfThe401(t *testing.T) {
	var requests atomic.Int32
	api := brandAPI(t, "Bearer none", &requests)
	vault := &scripted{get: func(_ context.Context, r *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
		if r.GetRejectedTokenVersion() != "" {
			return nil, refusal(codes.FailedPrecondition, "CONSENT_REQUIRED")
		}
		return token("v1", time.Hour), nil
	}}
	source := world(t, vault).TokenSource("acme", tokenvault.Conversation("c-1"))
	_, err := (&http.Client{Transport: &tokenvault.Transport{Source: source}}).Get(api.URL)
	if !errors.Is(err, tokenvault.ErrConsentRequired) || requests.Load() != 1 {
		t.Error(err, requests.Load())
	}
}

func TestNoTokenForAnotherHost(t *testing.T) {
	var elsewhere atomic.Value
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		elsewhere.Store(r.Header.Get("Authorization"))
	}))
	t.Cleanup(other.Close)
	api := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	t.Cleanup(api.Close)
	source := world(t, &scripted{get: lives(time.Hour)}).TokenSource("acme", tokenvault.Consumer("alice"))
	_, err := (&http.Client{Transport: &tokenvault.Transport{Source: source}}).Get(api.URL)
	must(t, err)
	if elsewhere.Load() != "" {
		t.Error("the token went elsewhere")
	}
}

func TestNoTokenNoRequest(t *testing.T) {
	var requests atomic.Int32
	api := brandAPI(t, "", &requests)
	vault := &scripted{get: fails(refusal(codes.FailedPrecondition, "CONSENT_REQUIRED"))}
	source := world(t, vault).TokenSource("acme", tokenvault.Conversation("c-1"))
	_, err := (&http.Client{Transport: &tokenvault.Transport{Source: source}}).Get(api.URL)
	if !errors.Is(err, tokenvault.ErrConsentRequired) || requests.Load() != 0 {
		t.Error(err, requests.Load())
	}
}
