#!/usr/bin/perl
# Usage: client.pl PORT FUNCTION bg|fg <JOBS
# Gearman::Client: a line is UNIQUE TAB PAYLOAD, the unique may be empty; fg prints how each job ends.
use strict;
use warnings;
use Gearman::Client;

my ($port, $function, $mode) = @ARGV;
my $client = Gearman::Client->new(job_servers => ["127.0.0.1:$port"]);
$| = 1;
while (my $line = <STDIN>) {
    chomp $line;
    my ($unique, $payload) = split /\t/, $line, 2;
    my %options = length $unique ? (uniq => $unique) : ();
    if ($mode eq 'bg') {
        $client->dispatch_background($function, \$payload, \%options) or die "not accepted: $line\n";
        next;
    }
    my $result = $client->do_task($function, \$payload, {%options, on_status => sub { print "status $_[0] $_[1]\n" }});
    print defined $result ? "complete $$result\n" : "fail\n";
}
