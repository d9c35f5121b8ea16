#!/usr/bin/perl
# A preforking service with hand-written HTTP (see README.md): calls with HTTP::Tiny, a connection a call.
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_APPEND O_CREAT);
use HTTP::Tiny;
use IO::Socket::INET;

my $service = $ENV{SERVICE};
my %routes;
for my $route (split /;/, $ENV{ROUTES}) {
    my ($segment, $status, $delay_ms, @urls) = split ' ', $route;
    $routes{$segment} = [$status, $delay_ms, @urls];
}
sysopen(my $log_file, $ENV{TRUTH_LOG}, O_WRONLY | O_APPEND | O_CREAT) or die "cannot open $ENV{TRUTH_LOG}: $!";
my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$ENV{PORT}", Listen => 128, ReuseAddr => 1) or die "cannot listen: $!";

my $workers = 8;
for (1 .. $workers) {
    defined(my $pid = fork) or die "cannot fork: $!";
    serve() if $pid == 0;
}
wait for 1 .. $workers;

sub serve {
    local $SIG{PIPE} = 'IGNORE';
    while (my $connection = $listener->accept) {
        answer($connection);
        close $connection;
    }
    exit 0;
}

sub answer {
    my ($connection) = @_;
    my $head = '';
    until ($head =~ /\r\n\r\n/) {
        sysread($connection, $head, 16384, length $head) or return;
    }
    my ($segment) = $head =~ m{^\S+ (/[^/? ]*)};
    my ($id) = $head =~ /^x-request-id: *(\S+)/mi;
    $id //= '-';
    my ($status, $delay_ms, @urls) = @{ $routes{ $segment // '' } // [404, 0] };
    select undef, undef, undef, $delay_ms / 1000;
    for my $k (1 .. @urls) {
        my $answer = call($urls[$k - 1], "$id.$k");
        truth('C', "$id.$k", $answer);
        $status = 502 if $answer !~ /^[1-4]/;
    }
    truth('S', $id, $status);
    my $body = "$service $id\n";
    my $length = length $body;
    syswrite $connection, "HTTP/1.1 $status Status\r\nContent-Length: $length\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n$body";
}

sub call {
    my ($url, $id) = @_;
    my $response = HTTP::Tiny->new(keep_alive => 0)->get($url, { headers => { 'x-request-id' => $id } });
    # 599 is what HTTP::Tiny says when there was no answer.
    return $response->{status} if $response->{status} != 599;
    return $response->{content} =~ /refused/ ? 'connect' : '-';
}

sub truth {
    my ($kind, $id, $status) = @_;
    syswrite $log_file, "$kind $service $id $status\n";
}
