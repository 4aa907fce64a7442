%% An echo server with gen_tcp in mode {active, once}: a process for each connection, as Erlang servers are written.
%% Prints "READY <port>" and ends when its standard input closes.
-module(echo).
-export([main/0]).

%% The receive buffer is as large as the other servers' reads; Erlang's default of 1460 bytes would only slow the bulk.
main() ->
    Options = [binary, {ip, {127, 0, 0, 1}}, {active, false}, {nodelay, true}, {backlog, 4096}, {buffer, 65536}],
    {ok, Listener} = gen_tcp:listen(0, Options),
    {ok, Port} = inet:port(Listener),
    spawn(fun() -> accept(Listener) end),
    io:format("READY ~b~n", [Port]),
    follow_stdin().

follow_stdin() ->
    case io:get_line("") of
        eof -> halt(0);
        {error, _} -> halt(0);
        _ -> follow_stdin()
    end.

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Owner = spawn(fun() -> receive owner -> next(Socket) end end),
    ok = gen_tcp:controlling_process(Socket, Owner),
    Owner ! owner,
    accept(Listener).

next(Socket) ->
    case inet:setopts(Socket, [{active, once}]) of
        ok -> echo(Socket);
        {error, _} -> gen_tcp:close(Socket)
    end.

echo(Socket) ->
    receive
        {tcp, Socket, Data} ->
            case gen_tcp:send(Socket, Data) of
                ok -> next(Socket);
                {error, _} -> gen_tcp:close(Socket)
            end;
        {tcp_closed, Socket} -> ok;
        {tcp_error, Socket, _} -> gen_tcp:close(Socket)
    end.
